"""Which running sequences give way to a waiting one of a better class."""

from collections.abc import Iterable

from headway_engine.core.sequence import Sequence


def victims(running: Iterable[Sequence], head: Sequence, slots_short: int, blocks_short: int) -> list[Sequence] | None:
    """The sequences to preempt so that `head` can run, last in rank first; None when even all of a worse class are too few.

    Args:
        running: the running sequences.
        head: the one that waits.
        slots_short: slots that it lacks; none or negative when there are enough.
        blocks_short: KV blocks that it lacks; likewise.
    """
    worse = sorted((s for s in running if s.priority > head.priority), key=lambda s: s.rank, reverse=True)
    chosen: list[Sequence] = []
    for sequence in worse:
        if slots_short <= 0 and blocks_short <= 0:
            break
        chosen.append(sequence)
        slots_short -= 1
        blocks_short -= len(sequence.blocks)
    return None if slots_short > 0 or blocks_short > 0 else chosen
