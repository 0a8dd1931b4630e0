"""Compiles the forms that answers must have, off the event loop and off the step loop.

`llguidance` turns a JSON schema, a regular expression or a list of choices into a parser over bytes, and walks the vocabulary's
trie along with it: so a token is allowed when its bytes can go on, wherever its borders are. A compiled form is kept and copied for
each answer; the copies share what they have learnt.

Hostile forms are harmless: `core/admission.py` bounds their size, the library's own limits bound most of the work of compiling and
of each token, `form_trial.py` the rest, and the one worker thread keeps a slow one from everybody but other newcomers with a form.
"""

import json
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headway_engine.core.constraint import Constraint, ConstraintError, ConstraintKind, ConstraintSpec
from headway_engine.core.request import RequestId
from headway_engine.runtime.form_trial import FormTrial, Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions  # only the stubs have it

KEPT_FORMS = 32  # of up to 20 MB
# JSON on one line as Python writes it. With free white space a model may write line breaks until its answer is cut off; a
# schema that wants it says so (`"x-guidance": {"whitespace_flexible": true}`).
_JSON_STYLE: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LONGEST_REASON = 300
# Half of the library's bound on the work of a token (7 ms then), and a tenth of that on what a form keeps (1 to 2 KiB a state).
_STEP_FUEL, _LEXER_STATES = 100_000, 25_000
# A fifth of its bound on what a token may force after it, which all rows of the step wait for: 7 ms then, where the library's own took 47.
_STEP_ITEMS = 10_000
# A tenth of its bound on what is made of a form in advance: with all of it 15 characters, `(a{1000}){990}`, kept 190 MB.
_FORM_FUEL = 100_000


class GrammarCompiler:
    """Compiled forms of one model. Costs nothing before the first."""

    def __init__(self, tokenizer: Vocabulary, vocab_size: int) -> None:
        """Prepare for a model.

        Args:
            tokenizer: of the model.
            vocab_size: columns of its logits, which may be more than the tokenizer has tokens.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headway-grammar")
        # These belong to the thread.
        self._vocabulary: LLTokenizer | None = None
        self._forms: OrderedDict[ConstraintSpec, LLMatcher] = OrderedDict()
        self._trial = FormTrial(tokenizer, vocab_size)
        self._prepared: dict[RequestId, Constraint] = {}

    def prepare(self, request_id: RequestId, spec: ConstraintSpec) -> "Future[None]":
        """Compile in the thread, for `take`. The future fails as `compile_here` does, and where the form takes too much."""

        def work() -> None:
            if spec not in self._forms:
                self._trial.check(spec)
            self._prepared[request_id] = self.compile_here(spec)

        return self._thread.submit(work)

    def take(self, request_id: RequestId) -> Constraint | None:
        """The constraint of a request whose `prepare` is done, or None when it has none."""
        return self._prepared.pop(request_id, None)

    def forget(self, request_id: RequestId) -> None:
        """The request will not come: drop its constraint, also one that is still being compiled."""
        self._thread.submit(self._prepared.pop, request_id, None)

    def compile_here(self, spec: ConstraintSpec) -> Constraint:
        """A new answer's constraint, compiled in the calling thread.

        Raises:
            ConstraintError: the form cannot be read, is too large, or asks for what cannot be enforced.
        """
        form = self._forms.get(spec)
        if form is None:
            form = self._forms[spec] = self._compiled(spec)
            if len(self._forms) > KEPT_FORMS:
                self._forms.popitem(last=False)
        self._forms.move_to_end(spec)
        return _Answer(form.deep_copy(), spec.kind)

    def close(self) -> None:
        """Let the thread end, and what it waits for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._trial.close()

    def _compiled(self, spec: ConstraintSpec) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 - benchmarks run without it

        limits = LLParserLimits(
            verbose_errors=False,
            initial_lexer_fuel=_FORM_FUEL,
            step_lexer_fuel=_STEP_FUEL,
            step_max_items=_STEP_ITEMS,
            max_lexer_states=_LEXER_STATES,
        )
        matcher = LLMatcher(self.load_vocabulary(), _grammar(spec), log_level=0, limits=limits)
        if matcher.is_error():
            raise _problem(spec.kind, matcher.get_error())
        # The first mask is the slowest one; and a form that refers to itself without end shows here.
        first = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(first.ctypes.data, first.nbytes)
        if matcher.is_error() or not first.any():
            raise ConstraintError(f"sampling_params.{spec.kind}: no text has this form")
        return matcher

    def load_vocabulary(self) -> "LLTokenizer":
        """What all forms need, read when the first one comes.

        Raises:
            ConstraintError: the model's tokenizer cannot be used.
        """
        from llguidance import LLTokenizer  # noqa: PLC0415 - benchmarks run without it

        if self._vocabulary is not None:
            return self._vocabulary
        try:
            self._vocabulary = LLTokenizer(
                self._tokenizer.serialized(),
                n_vocab=self._vocab_size,
                eos_token=list(self._tokenizer.eos_token_ids),
                slices=LLTokenizer.json_slices(),
            )
        except ValueError as error:
            raise ConstraintError(f"the model's tokenizer cannot be used for a constraint: {error}") from error
        return self._vocabulary


class _Answer:
    """The state of one answer; see `Constraint`."""

    def __init__(self, matcher: "LLMatcher", kind: ConstraintKind) -> None:
        self._matcher = matcher
        self._kind = kind

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise _problem(self._kind, self._matcher.get_error())

    def advance(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            raise _problem(self._kind, self._matcher.get_error())

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()


def _grammar(spec: ConstraintSpec) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415 - see above

    match spec.kind:
        case ConstraintKind.JSON_SCHEMA:
            try:
                return LLMatcher.grammar_from_json_schema(
                    spec.source, defaults=_JSON_STYLE, overrides={"lenient": False}
                )
            except ValueError as error:
                raise _problem(spec.kind, str(error)) from error
        case ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(spec.source)
        case ConstraintKind.CHOICE:
            texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in spec.choices)
            return LLMatcher.grammar_from_lark(f"start: {texts}")


def _problem(kind: ConstraintKind, reason: str) -> ConstraintError:
    text = " ".join(reason.split())
    return ConstraintError(f"sampling_params.{kind}: {text[:_LONGEST_REASON]}")
