"""What a workload class brings: where a fleet's limits start, and where tuning may move them, while the user says nothing.

    realtime     somebody listens or types: first token below 500 ms
    interactive  somebody reads along: 500 to 2000 ms
    batch        nobody waits for the first token: above 2000 ms

A value that the user writes always wins; a class fills in only what is left out, inside the engine's capacity and, while
tuning is on, inside the written bounds. Without an objective a fleet has no class: limits are the capacity, 256 requests
wait, mode Continuous, profile Throughput. Nothing here belongs to a pod's revision: another class reaches running engines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway_operator.api.spec_actuators import Range, Tuning, TuningMode
from headway_operator.api.spec_engine import BatchingMode, Capacity, Engine, Limits, Profile
from headway_operator.api.spec_slo import Slo, WorkloadClass

CLASSLESS_QUEUED_REQUESTS = 256
# Room for arrivals of better classes until streams end; more would leave idle what batch work could use.
POOLED_RESERVED_PERCENT = 20


@dataclass(frozen=True, slots=True)
class ClassDefaults:
    """What holds for a class where the spec is silent.

    Attributes:
        max_num_seqs: sequences at once at first; None is the capacity.
        max_num_batched_tokens: tokens of one step at first; None is the capacity.
        batch_wait_milliseconds: how long requests wait for company.
        max_queued_requests: requests that wait in one engine.
        batching_mode: when waiting requests join.
        profile: what a step is built for.
        tuned_seqs_min: fewest sequences that tuning goes down to.
        tuned_seqs_max: most that it goes up to; None is the capacity.
        tuned_tokens_min: smallest step that tuning goes down to, tokens.
    """

    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    batch_wait_milliseconds: int
    max_queued_requests: int
    batching_mode: BatchingMode
    profile: Profile
    tuned_seqs_min: int = 1
    tuned_seqs_max: int | None = None
    tuned_tokens_min: int = 1


CLASSLESS = ClassDefaults(
    max_num_seqs=None,
    max_num_batched_tokens=None,
    batch_wait_milliseconds=0,
    max_queued_requests=CLASSLESS_QUEUED_REQUESTS,
    batching_mode=BatchingMode.CONTINUOUS,
    profile=Profile.THROUGHPUT,
)
CLASS_DEFAULTS: Mapping[WorkloadClass, ClassDefaults] = {
    # Batches of 1 to 4: each further stream lengthens the step that all of them wait for. Steps of 512 tokens, which an
    # 8B model computes in 14 ms on an H200, a third of the 50 ms between tokens. LowTail, since one long prompt of
    # somebody else is what breaks a voice. Two full batches may wait: whoever comes later would miss 400 ms anyway, and is
    # better told at once, to try elsewhere.
    WorkloadClass.REALTIME: ClassDefaults(
        max_num_seqs=4,
        max_num_batched_tokens=512,
        batch_wait_milliseconds=0,
        max_queued_requests=8,
        batching_mode=BatchingMode.CONTINUOUS,
        profile=Profile.LOW_TAIL,
        tuned_seqs_max=4,
        tuned_tokens_min=64,
    ),
    # Dynamic: prompts that arrive within 5 ms interrupt the running streams once, not each for itself; 5 ms are 1 % of the
    # class's strictest first token. Limits start at the capacity, because how many streams the time between tokens allows
    # is ten times as much on an H100 as on a CPU; tuning trims it to the target, not below 4, where smaller batches no
    # longer make steps shorter. 16 wait: a short queue, so that waiting shows as load and not as a late answer.
    WorkloadClass.INTERACTIVE: ClassDefaults(
        max_num_seqs=None,
        max_num_batched_tokens=None,
        batch_wait_milliseconds=5,
        max_queued_requests=16,
        batching_mode=BatchingMode.DYNAMIC,
        profile=Profile.THROUGHPUT,
        tuned_seqs_min=4,
        tuned_tokens_min=128,
    ),
    # Tokens per second and cost: the capacity, never less than 32 sequences by tuning, since weights are read once for all
    # of them. Work comes in heaps: an idle engine waits 20 ms so that its first step is a full one, and 1024 may wait.
    WorkloadClass.BATCH: ClassDefaults(
        max_num_seqs=None,
        max_num_batched_tokens=None,
        batch_wait_milliseconds=20,
        max_queued_requests=1024,
        batching_mode=BatchingMode.CONTINUOUS,
        profile=Profile.THROUGHPUT,
        tuned_seqs_min=32,
        tuned_tokens_min=512,
    ),
}


def of_slo(slo: Slo | None) -> ClassDefaults:
    """The defaults of a fleet: of its class; of the best of its classes, with all the slots, when several share it."""
    if slo is None:
        return CLASSLESS
    best = CLASS_DEFAULTS[slo.objectives[0].workload_class]
    if not slo.classes:
        return best
    # The best class says how its requests are treated. Slots are for all of them: tuning trims them to the strictest target.
    return replace(best, max_num_seqs=None, tuned_seqs_max=None)


def reserved_percent(limits: Limits, slo: Slo | None) -> int:
    """What batch work leaves free: the user's share, or a fifth where it runs beside better classes."""
    if limits.reserved_percent is not None:
        return limits.reserved_percent
    return POOLED_RESERVED_PERCENT if slo is not None and slo.shares_slack else 0


def queued_batch_requests(engine: Engine, slo: Slo | None) -> int:
    """The queue's bound for batch work: the user's, or that of class batch where it runs beside better classes."""
    if engine.limits.max_queued_batch_requests is not None:
        return engine.limits.max_queued_batch_requests
    shared = slo is not None and slo.shares_slack
    batch = CLASS_DEFAULTS[WorkloadClass.BATCH].max_queued_requests
    return min(batch, engine.capacity.max_queued_requests) if shared else 0


def starting_seqs(engine: Engine, tuning: Tuning, defaults: ClassDefaults) -> int:
    """Sequences at once before tuning has moved them: the user's, or the class's inside capacity and bounds."""
    written = engine.limits.max_num_seqs
    if written is not None:
        return written
    most = engine.capacity.max_num_seqs
    return _inside(min(defaults.max_num_seqs or most, most), _written(tuning, tuning.bounds.max_num_seqs))


def starting_tokens(engine: Engine, tuning: Tuning, defaults: ClassDefaults) -> int:
    """Tokens of one step before tuning has moved them: at least one for each sequence."""
    written = engine.limits.max_num_batched_tokens
    if written is not None:
        return written
    most = engine.capacity.max_num_batched_tokens
    wanted = max(defaults.max_num_batched_tokens or most, starting_seqs(engine, tuning, defaults))
    return _inside(min(wanted, most), _written(tuning, tuning.bounds.max_num_batched_tokens))


def seqs_bounds(capacity: Capacity, tuning: Tuning, defaults: ClassDefaults, start: int) -> Range:
    """Where tuning may move the sequences at once: the user's bounds, or the class's, widened to hold the start."""
    written = tuning.bounds.max_num_seqs
    if written is not None:
        return written
    most = min(defaults.tuned_seqs_max or capacity.max_num_seqs, capacity.max_num_seqs)
    return Range(min=min(defaults.tuned_seqs_min, most, start), max=max(most, start))


def tokens_bounds(capacity: Capacity, tuning: Tuning, defaults: ClassDefaults, start: int) -> Range:
    """Where tuning may move the tokens of one step."""
    written = tuning.bounds.max_num_batched_tokens
    if written is not None:
        return written
    most = capacity.max_num_batched_tokens
    return Range(min=min(defaults.tuned_tokens_min, most, start), max=most)


def queued_requests(engine: Engine, defaults: ClassDefaults) -> int:
    """Requests that wait in one engine: the user's, or the class's inside the capacity."""
    return engine.limits.max_queued_requests or min(defaults.max_queued_requests, engine.capacity.max_queued_requests)


def _written(tuning: Tuning, bounds: Range | None) -> Range | None:
    return None if tuning.mode is TuningMode.OFF else bounds


def _inside(value: int, bounds: Range | None) -> int:
    return value if bounds is None else max(bounds.min, min(bounds.max, value))
