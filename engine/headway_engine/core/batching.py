"""When waiting requests join the running ones, and how many tokens a step may have: the rules of the batching modes.

With N = max_num_seqs, T = max_num_batched_tokens, W = batch_wait_ms; q waiting, r running, f = max(1, N - r) free, d of the
running ones decoding, B prompt tokens not prefilled yet:

    mode        the waiting ones are dispatched (together, as one group) when            tokens of a step
    continuous  r > 0, or q >= N, or B >= T, or the oldest has waited W                  T
    dynamic     q >= f, or B >= T, or the oldest has waited W                            T
    adaptive    r = 0, or q >= min(f, ceil(r / 4)), or the oldest has waited W           min(T, d + max(T / 8, B / 2))
    static      r = 0, and: q >= N, or nobody has come for W                             T

*Continuous* lets everybody join at the next step; only an idle engine waits for company. *Dynamic* also lets those wait who
would join a running batch, so the running streams are interrupted by few large prefills and not by many small ones.
*Adaptive* never waits when nothing runs; under load it interrupts the more streams the rarer, and takes small bites of a
short queue and large ones of a long queue. *Static* runs a group of N to its end before the next one starts. Which requests
form a group depends on the order of arrival alone as long as they come closer together than W, so that batch work can be
repeated; the last group, which nobody fills up, starts when nobody has come for W.

A dispatched group is admitted as slots, blocks and budget allow, over several steps if need be. W = 0 dispatches at once, in
static mode once nothing runs.
"""

from dataclasses import dataclass

from headway_engine.core.limits import BatchingMode, Limits

ADAPTIVE_INTERRUPTION = 4  # running streams per request of a group
ADAPTIVE_SMALLEST_STEP = 8  # part of T that a step may always have
ADAPTIVE_BITE = 2  # part of the backlog that one step takes


@dataclass(frozen=True, slots=True)
class QueueView:
    """What the rules look at.

    Attributes:
        now: monotonic seconds.
        waiting: requests without a slot.
        running: requests with one.
        backlog: prompt tokens not prefilled yet, of waiting and running requests.
        oldest_s: arrival of the one that waits longest.
        newest_s: the latest arrival of all.
    """

    now: float
    waiting: int
    running: int
    backlog: int
    oldest_s: float
    newest_s: float


def dispatches(limits: Limits, queue: QueueView) -> bool:
    """Whether the waiting requests may join now."""
    if queue.waiting == 0:
        return False
    free = max(1, limits.max_num_seqs - queue.running)
    filled = queue.waiting >= free or queue.backlog >= limits.max_num_batched_tokens
    match limits.batching_mode:
        case BatchingMode.CONTINUOUS:
            ready = queue.running > 0 or filled
        case BatchingMode.DYNAMIC:
            ready = filled
        case BatchingMode.ADAPTIVE:
            ready = queue.waiting >= min(free, -(-queue.running // ADAPTIVE_INTERRUPTION))
        case BatchingMode.STATIC:
            if queue.running > 0:
                return False
            ready = queue.waiting >= free
    return ready or queue.now >= _wait_ends(limits, queue)


def group(limits: Limits, queue: QueueView, left: int) -> int:
    """How many waiting requests may join in the next step. `left`: those of the latest group that have not joined yet."""
    if left > 0 and limits.batching_mode is not BatchingMode.CONTINUOUS:
        return min(left, queue.waiting)
    if not dispatches(limits, queue):
        return 0
    if limits.batching_mode is BatchingMode.CONTINUOUS:
        return queue.waiting
    return min(queue.waiting, max(1, limits.max_num_seqs - queue.running))


def next_dispatch_s(limits: Limits, queue: QueueView) -> float | None:
    """When `dispatches` becomes true by time alone, for an engine that runs nothing; None while nobody waits."""
    return None if queue.waiting == 0 else _wait_ends(limits, queue)


def step_tokens(limits: Limits, backlog: int, decoding: int) -> int:
    """Tokens that the next step may have; at least one for each decoding sequence as long as T has them."""
    most = limits.max_num_batched_tokens
    if limits.batching_mode is not BatchingMode.ADAPTIVE:
        return most
    return min(most, decoding + max(1, most // ADAPTIVE_SMALLEST_STEP, backlog // ADAPTIVE_BITE))


def _wait_ends(limits: Limits, queue: QueueView) -> float:
    since = queue.newest_s if limits.batching_mode is BatchingMode.STATIC else queue.oldest_s
    return since + limits.batch_wait_ms / 1000
