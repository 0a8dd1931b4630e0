"""Whether a waiting sequence can run now: on which blocks, and who gives way to it."""

from collections.abc import Collection
from dataclasses import dataclass

from headway_engine.core.blocks import BlockPool, Prefix
from headway_engine.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Room:
    """What a waiting sequence needs to run.

    Attributes:
        shared: blocks of the prefix cache that hold its first tokens.
        prefix: what stands for them there.
        own: further blocks that it takes.
        victims: running sequences of a worse class that are preempted first.
    """

    shared: list[int]
    prefix: Prefix
    own: int
    victims: list[Sequence]


def find_room(
    pool: BlockPool, running: Collection[Sequence], head: Sequence, slots_short: int, reserve: int
) -> Room | None:
    """Room for `head`, or None when there is not enough, not even in place of a worse class.

    Args:
        pool: the KV blocks.
        running: the running sequences.
        head: the one that waits.
        slots_short: slots that it lacks; none or negative when there are enough.
        reserve: blocks that must stay free for the growth of what runs.
    """
    if slots_short > 0 and not any(one.priority > head.priority for one in running):
        return None  # soon told, so that a full engine does not look its queue's head up in each step
    shared, prefix = pool.match(head.tokens, head.request.cache_salt)
    total = pool.blocks_for(len(head.tokens))
    # Shared blocks that nobody holds are among the free ones.
    blocks_short = total - sum(not pool.is_free(block) for block in shared) + reserve - pool.num_free
    victims = _victims(pool, running, head, slots_short, blocks_short, frozenset(shared))
    return None if victims is None else Room(shared, prefix, total - len(shared), victims)


def _victims(
    pool: BlockPool,
    running: Collection[Sequence],
    head: Sequence,
    slots_short: int,
    blocks_short: int,
    kept: frozenset[int],
) -> list[Sequence] | None:
    """The sequences to preempt, last in rank first; None when even all of a worse class are too few."""
    chosen: list[Sequence] = []
    if slots_short > 0 or blocks_short > 0:
        for one in sorted((s for s in running if s.priority > head.priority), key=lambda s: s.rank, reverse=True):
            chosen.append(one)
            slots_short -= 1
            # Blocks that others hold too, or that `head` will, do not become free.
            blocks_short -= sum(pool.holders(block) == 1 and block not in kept for block in one.blocks)
            if slots_short <= 0 and blocks_short <= 0:
                break
    return None if slots_short > 0 or blocks_short > 0 else chosen
