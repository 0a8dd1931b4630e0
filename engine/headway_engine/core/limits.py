"""The live limits as a small state machine: baseline, effective limits, and a lease that ends by itself.

    update with lease_s > 0:  effective = effective + patch, for lease_s seconds
    update with lease_s = 0:  baseline = baseline + patch, effective = baseline, a lease that was held is over
    lease ends:               effective = baseline

`revision` goes up by one whenever `effective` or `baseline` takes another value; renewing a lease with equal limits only
moves its end. A state is frozen: the step thread holds the current one, and any thread may read it.
"""

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from headway_engine.core.request import Priority, Rejected, StatusCode

MAX_LEASE_S = 86_400
DEFAULT_ITL_TARGET_MS = 50  # twenty tokens a second read as a steady stream


class BatchingMode(StrEnum):
    """When waiting requests join the running ones; `batching` has the rules."""

    CONTINUOUS = "continuous"
    STATIC = "static"
    DYNAMIC = "dynamic"
    ADAPTIVE = "adaptive"


class Profile(StrEnum):
    """What a step is built for.

    THROUGHPUT fills each step with prompt tokens up to the budget. LOW_TAIL gives a step only as many as end within the
    least target of the streams that run in it (`Limits.gap_ms`), so that none of them waits longer for its next token.
    """

    THROUGHPUT = "throughput"
    LOW_TAIL = "low-tail"


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be changed live.

    Attributes:
        max_num_seqs: running sequences.
        max_num_batched_tokens: tokens of one step, prefill chunks and decodes together.
        batch_wait_ms: how long requests wait for company; which ones, the mode says.
        max_queued_requests: waiting requests; more are refused.
        batching_mode: when waiting requests join.
        profile: what a step is built for.
        itl_target_ms: the longest gap between two tokens of a stream that LOW_TAIL and batch work keep to.
        interactive_itl_target_ms: the same of interactive streams; 0 is itl_target_ms.
        batch_itl_target_ms: the same of batch streams, under LOW_TAIL only; 0: there is none.
        ttft_target_ms: from its arrival, when the first token of a realtime request is due; who will miss that lets those
            of its class go first who will not (`waiting`); 0: first come, first served.
        interactive_ttft_target_ms: the same of interactive requests; 0 is ttft_target_ms.
        reserved_percent: slots and blocks that batch work leaves free for better classes; 0 turns `slack` off.
        default_class: the class of requests that name none.
        max_queued_batch_requests: waiting requests in all beyond which batch ones are refused; 0 is max_queued_requests.
        batch_deadline_ms: from its arrival, by when a batch request should end; later ones are counted; 0: there is none.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    batch_wait_ms: int
    max_queued_requests: int
    batching_mode: BatchingMode = BatchingMode.CONTINUOUS
    profile: Profile = Profile.THROUGHPUT
    itl_target_ms: int = DEFAULT_ITL_TARGET_MS
    reserved_percent: int = 0
    default_class: Priority = Priority.INTERACTIVE
    max_queued_batch_requests: int = 0
    batch_deadline_ms: int = 0
    interactive_itl_target_ms: int = 0
    batch_itl_target_ms: int = 0
    ttft_target_ms: int = 0
    interactive_ttft_target_ms: int = 0

    def due_ms(self, kind: Priority) -> float:
        """From its arrival, when the first token of a request of this class is due; infinite where it may wait."""
        own = self.interactive_ttft_target_ms if kind is Priority.INTERACTIVE else 0
        return math.inf if kind is Priority.BATCH else own or self.ttft_target_ms or math.inf

    def gap_ms(self, kind: Priority) -> int | None:
        """The longest gap between two tokens of a stream of this class that a step may make; None: any."""
        if kind is Priority.BATCH:
            # Batch work aims at throughput; only who asks for short gaps bounds them beside nobody else.
            return (self.batch_itl_target_ms or None) if self.profile is Profile.LOW_TAIL else None
        own = self.interactive_itl_target_ms if kind is Priority.INTERACTIVE else 0
        return own or self.itl_target_ms


@dataclass(frozen=True, slots=True)
class LimitsPatch:
    """A change of limits; None leaves a limit as it is."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    batch_wait_ms: int | None = None
    max_queued_requests: int | None = None
    batching_mode: BatchingMode | None = None
    profile: Profile | None = None
    itl_target_ms: int | None = None
    reserved_percent: int | None = None
    default_class: Priority | None = None
    max_queued_batch_requests: int | None = None
    batch_deadline_ms: int | None = None
    interactive_itl_target_ms: int | None = None
    batch_itl_target_ms: int | None = None
    ttft_target_ms: int | None = None
    interactive_ttft_target_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Smallest and largest value allowed, both included."""

    min: int
    max: int


ITL_TARGET_BOUNDS = Bounds(1, 60_000)
CLASS_ITL_TARGET_BOUNDS = Bounds(0, 60_000)
TTFT_TARGET_BOUNDS = Bounds(0, 86_400_000)  # a day
BATCH_DEADLINE_BOUNDS = Bounds(0, 86_400_000)  # a day
RESERVED_BOUNDS = Bounds(0, 90)  # batch work always keeps a slot: floor(0.9 N) < N


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the process was sized for at its start; limits move inside it. Every mode and profile is."""

    max_num_seqs: Bounds
    max_num_batched_tokens: Bounds
    batch_wait_ms: Bounds
    max_queued_requests: Bounds
    max_queued_batch_requests: Bounds
    itl_target_ms: Bounds = ITL_TARGET_BOUNDS
    reserved_percent: Bounds = RESERVED_BOUNDS
    batch_deadline_ms: Bounds = BATCH_DEADLINE_BOUNDS
    interactive_itl_target_ms: Bounds = CLASS_ITL_TARGET_BOUNDS
    batch_itl_target_ms: Bounds = CLASS_ITL_TARGET_BOUNDS
    ttft_target_ms: Bounds = TTFT_TARGET_BOUNDS
    interactive_ttft_target_ms: Bounds = TTFT_TARGET_BOUNDS


@dataclass(frozen=True, slots=True)
class RuntimeConfigState:
    """The limits as a reader sees them at one moment; `lease_remaining_s` is 0 when no lease is held."""

    revision: int
    effective: Limits
    baseline: Limits
    envelope: Envelope
    lease_remaining_s: float


@dataclass(frozen=True, slots=True)
class LimitsState:
    """The state of the machine; `lease_ends_s` is a monotonic time, None without a lease."""

    envelope: Envelope
    baseline: Limits
    effective: Limits
    revision: int = 1
    lease_ends_s: float | None = None

    def view(self, now: float) -> RuntimeConfigState:
        """What a reader sees at `now`, a lease that just ended included."""
        state = self.expire(now)
        remaining = 0.0 if state.lease_ends_s is None else state.lease_ends_s - now
        return RuntimeConfigState(state.revision, state.effective, state.baseline, state.envelope, remaining)

    def expire(self, now: float) -> "LimitsState":
        """The state at `now`: back on the baseline when the lease has ended."""
        if self.lease_ends_s is None or now < self.lease_ends_s:
            return self
        return _move(self, self.baseline, self.baseline, None)

    def update(
        self, patch: LimitsPatch, lease_s: int, expected_revision: int | None, now: float
    ) -> "LimitsState | Rejected":
        """The next state, or why the change is refused."""
        current = self.expire(now)
        if expected_revision is not None and expected_revision != current.revision:
            return Rejected(
                StatusCode.ABORTED,
                f"expected_revision is {expected_revision}, the current revision is {current.revision}",
            )
        if not 0 <= lease_s <= MAX_LEASE_S:
            return _invalid(f"lease_seconds is {lease_s}, allowed are 0 to {MAX_LEASE_S}")
        limits = merge(current.effective if lease_s else current.baseline, patch)
        problem = check(limits, current.envelope)
        if problem is not None:
            return problem
        if lease_s:
            return _move(current, current.baseline, limits, now + lease_s)
        return _move(current, limits, limits, None)


def merge(limits: Limits, patch: LimitsPatch) -> Limits:
    """`limits` with the fields that `patch` sets."""
    given = {field.name: getattr(patch, field.name) for field in fields(patch)}
    return replace(limits, **{name: value for name, value in given.items() if value is not None})


def check(limits: Limits, envelope: Envelope) -> Rejected | None:
    """Why `limits` cannot be, or None when they can."""
    for field in fields(envelope):
        value: int = getattr(limits, field.name)
        bounds: Bounds = getattr(envelope, field.name)
        if not bounds.min <= value <= bounds.max:
            return _invalid(f"limits.{field.name} is {value}, the envelope allows {bounds.min} to {bounds.max}")
    if limits.max_num_batched_tokens < limits.max_num_seqs:
        # Each running sequence decodes one token a step: a smaller budget would leave some of them without progress.
        return _invalid(
            f"limits.max_num_batched_tokens is {limits.max_num_batched_tokens},"
            f" it must be at least limits.max_num_seqs ({limits.max_num_seqs})"
        )
    return None


def _invalid(message: str) -> Rejected:
    return Rejected(StatusCode.INVALID_ARGUMENT, message)


def _move(state: LimitsState, baseline: Limits, effective: Limits, lease_ends_s: float | None) -> LimitsState:
    changed = baseline != state.baseline or effective != state.effective
    return replace(
        state,
        baseline=baseline,
        effective=effective,
        lease_ends_s=lease_ends_s,
        revision=state.revision + changed,
    )
