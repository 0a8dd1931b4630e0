"""What a request may ask for. `validate` is called before tokenization, `validate_tokens_of_text` after it; what they refuse costs no step.

Every refusal names the field as the wire calls it, the value, and the limit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from headway_engine.core.constraint import ConstraintKind, ConstraintSpec
from headway_engine.core.prompt_policy import PromptPolicy, shorten
from headway_engine.core.request import Rejected, Request, SamplingParams, StatusCode

MAX_REQUEST_ID_CHARS = 256
MAX_CACHE_SALT_CHARS = 256
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 256
MAX_SEED = 2**64 - 1
MAX_PENALTY = 2.0
# Beyond these a logit may be no finite number any more, which looks like a broken model.
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
MAX_BIAS = 100.0
MAX_BIASES = 300
MAX_LOGPROBS = 20
MAX_FORM_CHARS = 1 << 16
MAX_CHOICES = 1000
# Tokens are shorter than this on average in any prompt that means something; a longer text is refused without the cost
# of tokenizing it, which would be far more than the 10 ms a refusal may take.
MAX_CHARS_PER_TOKEN = 16

_PENALTIES = f"allowed are {-MAX_PENALTY:g} to {MAX_PENALTY:g}"
# Field, what holds for it, and how a refusal says so. NaN holds nowhere.
_SAMPLING_RULES: tuple[tuple[str, Callable[[SamplingParams], bool], str], ...] = (
    ("temperature", lambda p: p.temperature >= 0 and math.isfinite(p.temperature), "it must be a finite number >= 0"),
    ("top_p", lambda p: 0 < p.top_p <= 1, "it must be above 0 and at most 1"),
    ("top_k", lambda p: p.top_k >= 0, "it must be >= 0 (0 is off)"),
    ("min_p", lambda p: 0 <= p.min_p <= 1, "it must be 0 to 1 (0 is off)"),
    ("presence_penalty", lambda p: abs(p.presence_penalty) <= MAX_PENALTY, _PENALTIES),
    ("frequency_penalty", lambda p: abs(p.frequency_penalty) <= MAX_PENALTY, _PENALTIES),
    (
        "repetition_penalty",
        lambda p: MIN_REPETITION_PENALTY <= p.repetition_penalty <= MAX_REPETITION_PENALTY,
        f"allowed are {MIN_REPETITION_PENALTY:g} to {MAX_REPETITION_PENALTY:g} (1 is off)",
    ),
    ("logprobs", lambda p: 0 <= (p.logprobs or 0) <= MAX_LOGPROBS, f"allowed are 0 to {MAX_LOGPROBS}"),
    ("seed", lambda p: 0 <= (p.seed or 0) <= MAX_SEED, f"allowed are 0 to {MAX_SEED}"),
    (
        "ignore_eos",
        lambda p: not (p.ignore_eos and p.constraint),
        "but an answer with a constraint ends where its form is complete",
    ),
)


@dataclass(frozen=True, slots=True)
class AdmissionBounds:
    """What the loaded model and the KV cache allow.

    Attributes:
        max_model_len: longest prompt and answer together, in tokens.
        kv_capacity_tokens: tokens that the whole KV cache holds.
        vocab_size: token ids are below it.
        words_apart: no token holds parts of two words, so a text has at least as many tokens as words.
        policy: what becomes of longer prompts.
    """

    max_model_len: int
    kv_capacity_tokens: int
    vocab_size: int
    words_apart: bool = False
    policy: PromptPolicy = PromptPolicy.REJECT

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer together that one request can have."""
        return min(self.max_model_len, self.kv_capacity_tokens)


def fit(request: Request, bounds: AdmissionBounds) -> Request:
    """The request with a prompt of tokens that the policy has shortened where it was too long."""
    kept = shorten(request.prompt_ids, bounds.max_len, request.sampling.max_tokens, bounds.policy)
    cut = len(request.prompt_ids) - len(kept)
    return replace(request, prompt_ids=kept, truncated_tokens=cut) if cut else request


def validate(request: Request, bounds: AdmissionBounds) -> Rejected | None:
    """Why the engine cannot serve `request`, or None when it can."""
    problem = _request_id_problem(request.request_id)
    problem = problem or _cache_salt_problem(request.cache_salt)
    problem = problem or _sampling_problem(request.sampling, bounds)
    if request.text is not None:
        problem = problem or _text_problem(request.text, bounds)
    else:
        problem = problem or _prompt_problem("input_ids", request.prompt_ids, bounds)
    return _refused(problem)


def validate_tokens_of_text(ids: tuple[int, ...], bounds: AdmissionBounds) -> Rejected | None:
    """Why a text that `validate` has passed cannot be served now that its tokens are known, or None."""
    return _refused(_prompt_problem("text", ids, bounds))


def _refused(problem: str | None) -> Rejected | None:
    return None if problem is None else Rejected(StatusCode.INVALID_ARGUMENT, problem)


def _request_id_problem(request_id: str) -> str | None:
    if 1 <= len(request_id) <= MAX_REQUEST_ID_CHARS:
        return None
    return f"request_id has {len(request_id)} characters, allowed are 1 to {MAX_REQUEST_ID_CHARS}"


def _cache_salt_problem(cache_salt: str) -> str | None:
    if len(cache_salt) <= MAX_CACHE_SALT_CHARS:
        return None
    return f"cache_salt has {len(cache_salt)} characters, allowed are at most {MAX_CACHE_SALT_CHARS}"


def _text_problem(text: str, bounds: AdmissionBounds) -> str | None:
    if not text:
        return "text is empty, a prompt needs at least 1 token"
    most = bounds.max_model_len * MAX_CHARS_PER_TOKEN
    if len(text) > most:
        return (
            f"text has {len(text)} characters, allowed are {most}"
            f" ({MAX_CHARS_PER_TOKEN} for each of the model's {bounds.max_model_len} tokens)"
        )
    if not bounds.words_apart or bounds.policy is not PromptPolicy.REJECT:
        return None
    # Bytes, because their split knows ASCII white space only, which is what `words_apart` is about.
    return _length_problem("text has at least", len(text.encode().split()), bounds)


def _prompt_problem(name: str, ids: tuple[int, ...], bounds: AdmissionBounds) -> str | None:
    if not ids:
        return f"{name} is empty, a prompt needs at least 1 token"
    return _length_problem(f"{name} has", len(ids), bounds) or _token_ids_problem(name, ids, bounds)


def _length_problem(subject: str, count: int, bounds: AdmissionBounds) -> str | None:
    """`count`: tokens of a prompt, or a lower bound of them."""
    if count + 1 > bounds.max_model_len:
        return (
            f"{subject} {count} tokens, allowed are {bounds.max_model_len - 1}"
            f" (max_model_len {bounds.max_model_len}, 1 token left for the answer)"
        )
    if count + 1 > bounds.kv_capacity_tokens:
        return (
            f"{subject} {count} tokens, allowed are {bounds.kv_capacity_tokens - 1}"
            f" (the KV cache holds {bounds.kv_capacity_tokens}, 1 token left for the answer)"
        )
    return None


def _sampling_problem(sampling: SamplingParams, bounds: AdmissionBounds) -> str | None:
    for name, holds, allowed in _SAMPLING_RULES:
        if not holds(sampling):
            return f"sampling_params.{name} is {getattr(sampling, name)}, {allowed}"
    wanted, longest = sampling.max_tokens, bounds.max_model_len
    if wanted is not None and not 1 <= wanted <= longest:
        return f"sampling_params.max_tokens is {wanted}, allowed are 1 to {longest} (max_model_len)"
    return _bias_problem(sampling, bounds) or _form_problem(sampling.constraint) or _stop_problem(sampling, bounds)


def _bias_problem(sampling: SamplingParams, bounds: AdmissionBounds) -> str | None:
    if len(sampling.logit_bias) > MAX_BIASES:
        return f"sampling_params.logit_bias has {len(sampling.logit_bias)} tokens, allowed are {MAX_BIASES}"
    for token, bias in sampling.logit_bias:
        if not 0 <= token < bounds.vocab_size:
            return f"sampling_params.logit_bias has token {token}, the model's are 0 to {bounds.vocab_size - 1}"
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            return f"sampling_params.logit_bias[{token}] is {bias}, allowed are {-MAX_BIAS:g} to {MAX_BIAS:g}"
    return None


def _form_problem(spec: ConstraintSpec | None) -> str | None:
    if spec is None:
        return None
    chars = len(spec.source) + sum(map(len, spec.choices))
    if chars > MAX_FORM_CHARS:
        return f"sampling_params.{spec.kind} has {chars} characters, allowed are {MAX_FORM_CHARS}"
    if spec.kind is ConstraintKind.CHOICE and not 1 <= len(spec.choices) <= MAX_CHOICES:
        return f"sampling_params.choice has {len(spec.choices)} texts, allowed are 1 to {MAX_CHOICES}"
    if "" in spec.choices:
        return f"sampling_params.choice[{spec.choices.index('')}] is empty"
    return None


def _stop_problem(sampling: SamplingParams, bounds: AdmissionBounds) -> str | None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        return f"sampling_params.stop has {len(sampling.stop)} strings, allowed are {MAX_STOP_STRINGS}"
    for index, stop in enumerate(sampling.stop):
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            return f"sampling_params.stop[{index}] has {len(stop)} characters, allowed are 1 to {MAX_STOP_CHARS}"
    if len(sampling.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        count = len(sampling.stop_token_ids)
        return f"sampling_params.stop_token_ids has {count} ids, allowed are {MAX_STOP_TOKEN_IDS}"
    return _token_ids_problem("sampling_params.stop_token_ids", sampling.stop_token_ids, bounds)


def _token_ids_problem(name: str, ids: tuple[int, ...], bounds: AdmissionBounds) -> str | None:
    if ids and not (min(ids) >= 0 and max(ids) < bounds.vocab_size):
        index, bad = next((i, t) for i, t in enumerate(ids) if not 0 <= t < bounds.vocab_size)
        return f"{name}[{index}] is {bad}, the model's token ids are 0 to {bounds.vocab_size - 1}"
    return None
