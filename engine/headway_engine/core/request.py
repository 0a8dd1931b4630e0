"""A request as the engine's core sees it, and the two ways it can end: `Finished`, or `Rejected` before it began."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NewType

from headway_engine.core.constraint import Constraint, ConstraintSpec

RequestId = NewType("RequestId", str)


class StatusCode(StrEnum):
    """The gRPC status names that the engine answers with; the server maps them one to one."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    ABORTED = "ABORTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    NOT_FOUND = "NOT_FOUND"


class FinishReason(StrEnum):
    """Why an admitted request ended; the values are the wire's names in lower case."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    DEADLINE = "deadline"
    ERROR = "error"
    GIVEN_BACK = "given_back"


class Priority(IntEnum):
    """Workload class of one request; a lower value is served first."""

    REALTIME = 0
    INTERACTIVE = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request (or command) that was refused before it had any effect.

    Attributes:
        code: the status the caller sees.
        message: one sentence naming the field and its limit.
        retry_after_ms: a hint for RESOURCE_EXHAUSTED, 0 when there is none.
    """

    code: StatusCode
    message: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Values are valid by construction: `admission.validate` has seen them.

    Attributes:
        temperature: 0 is greedy.
        top_p: share of probability mass kept, in (0, 1].
        top_k: number of candidates kept, 0 = all.
        min_p: candidates with less than this share of the best one's probability are left out, in [0, 1]; 0 = off.
        presence_penalty: taken from the logit of each token that the answer has, in [-2, 2].
        frequency_penalty: the same for each time that the answer has it.
        repetition_penalty: logits of tokens that prompt or answer have are divided by it where positive, else multiplied.
        logit_bias: token ids and what is added to their logits.
        logprobs: report each token's log probability, and those of this many best candidates; None = off.
        constraint: the form that the answer must have; None = any.
        seed: makes the sampled stream reproducible; None draws one per request.
        max_tokens: tokens to generate; None means what the context length leaves.
        stop: strings that end the answer and are not part of it.
        stop_token_ids: token ids that end the answer, beside the model's own.
        ignore_eos: go on after the model's end-of-sequence token.
        skip_special_tokens: leave special tokens out of the text.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    constraint: ConstraintSpec | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    @property
    def penalized(self) -> bool:
        """Whether the tokens so far change the next one's logits."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1

    @property
    def plain(self) -> bool:
        """Whether temperature, top-p, top-k and the random number are all that drawing needs."""
        reshaped = self.penalized or self.min_p > 0 or bool(self.logit_bias) or self.constraint is not None
        return not reshaped and self.logprobs is None


@dataclass(frozen=True, slots=True)
class Request:
    """One generation request, validated.

    Attributes:
        request_id: unique among the requests in flight.
        text: the prompt, when it still has to be tokenized; otherwise None.
        prompt_ids: the prompt's tokens; empty while `text` is set.
        sampling: see `SamplingParams`.
        priority: workload class; None is the engine's default.
        arrival_s: monotonic time when the engine received it, or would have received it had it waited here all the time.
        deadline_s: monotonic time after which nobody waits for the answer; None = no limit.
        cache_salt: the prefix cache is shared by requests of the same salt only.
        truncated_tokens: tokens that the prompt policy has cut out.
        constraint: the compiled form of `sampling.constraint`, with the state of this answer.
        moved: another engine had admitted it, so it is no new one.
    """

    request_id: RequestId
    arrival_s: float
    text: str | None = None
    prompt_ids: tuple[int, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: Priority | None = None
    deadline_s: float | None = None
    cache_salt: str = ""
    truncated_tokens: int = 0
    constraint: Constraint | None = None
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an admitted request: the figures that `GenerateComplete` reports."""

    reason: FinishReason
    output_ids: tuple[int, ...]
    prompt_tokens: int
    queue_ms: float
    ttft_ms: float
    cached_tokens: int = 0
    truncated_tokens: int = 0
    matched_stop: str = ""
    error: str = ""
