"""Batch work in the slack of better classes: when a request of the batch class may take a slot, and how much of a step.

With s = reserved_percent, N = max_num_seqs, K blocks in the pool; r sequences running, f blocks free, b of them needed:

    a batch request takes a slot when
        nobody of a better class waits            (the queue serves better classes first)
        r + 1 <= N - floor(s N)                   slots stay free for better classes
        f - b >= watermark + floor(s K)           and so do blocks, while anything runs
        and, while a stream of a better class runs:
            decode_ms < target                    the last steps' decodes left room inside the target
            no other batch request came in this step, since each lengthens the next one
    its prompt takes of a step that has decodes of better classes
        no more tokens than end within the target, prompts of better classes included

The target is the least one of the streams of better classes that run then, or decode in the step (`Limits.gap_ms`).

s = 0 turns all of it off: batch is then only the last of the classes. A better class never waits for the slack: it takes
free slots, and then those of batch work, which gives way by recompute.

Nobody starves. While no batch request runs, the one that has waited longest ages like any other (10 s a class) and is then
served in turn with the better ones, 20 s after its arrival among realtime; so batch work always has one slot at least. The
others wait for slack: without that, a heap of batch work would be realtime work 20 s later.
"""

from collections.abc import Collection, Iterable

from headway_engine.core.limits import Limits
from headway_engine.core.request import Priority
from headway_engine.core.sequence import Sequence
from headway_engine.core.step_time import LARGEST_CHUNK, StepTime
from headway_engine.core.waiting import WaitingQueue


def kept_free(total: int, limits: Limits) -> int:
    """How many of `total` slots or blocks batch work leaves free; less than all of them."""
    return total * limits.reserved_percent // 100


def admits(limits: Limits, running: Collection[Sequence], step_time: StepTime, joined: bool) -> bool:
    """Whether a batch request may take a slot; `joined`: another one did in this step."""
    if not limits.reserved_percent:
        return True
    if len(running) + 1 + kept_free(limits.max_num_seqs, limits) > limits.max_num_seqs:
        return False
    bound_ms = least_gap_ms((one for one in running if one.workload_class < Priority.BATCH), limits)
    if bound_ms is None:
        return True
    return not joined and step_time.decode_ms is not None and step_time.decode_ms < bound_ms


def to_age(limits: Limits, running: Collection[Sequence], waiting: WaitingQueue, now: float) -> int | None:
    """How many batch requests may move up a class now; None is any number."""
    if not limits.reserved_percent:
        return None
    if not waiting.batch_is_due(now):
        return 0
    served = any(one.workload_class is Priority.BATCH for one in running)
    return 0 if served or waiting.has_moved_up_batch() else 1


def work_beside(decodes: Iterable[Sequence], limits: Limits, step_time: StepTime) -> float:
    """Work on prompts that a step may have so that each of its decodes keeps to the target of its class; all without targets."""
    bound_ms = least_gap_ms(decodes, limits)
    return LARGEST_CHUNK if bound_ms is None else step_time.work_within(bound_ms)


def least_gap_ms(streams: Iterable[Sequence], limits: Limits) -> int | None:
    """The least bound on the gaps of these streams; None where no class of theirs has one."""
    bounds = (limits.gap_ms(kind) for kind in {one.workload_class for one in streams})
    return min((bound for bound in bounds if bound is not None), default=None)
