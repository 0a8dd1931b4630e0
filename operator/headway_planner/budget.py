"""How careful the loop must be: what late first tokens have used up of the share that may be late.

    late    = min(first tokens over the target, queue waits over half of the target), faded by half in HALF_LIFE_S
    burn    = late / (share that may be late * first tokens + FREE)
    caution = log(burn / CALM) / log(ALARM / CALM), within 0..1

A prompt that is too long for the target on an idle engine waits for no queue: no count of replicas helps it, and it is no
reason for one. FREE late requests say nothing: a small fleet has seen a moment, not a habit.

Caution makes memories longer and is no margin on the count: bursts that came once are held ready, and removals wait.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

HALF_LIFE_S = 1200.0
FREE = 100.0  # requests
CALM, ALARM = 2.0, 20.0  # burns at which caution begins and is complete


class FirstTokens(NamedTuple):  # one is made for each engine of a pass, and a frozen dataclass costs twice as much
    """Counts of first tokens; those of a fleet since any start never fall.

    Attributes:
        answered: all of them.
        late: over their class's target.
        queued: of requests that waited in the queue for more than half of it.
    """

    answered: float = 0.0
    late: float = 0.0
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Replicas that sufficed for a removal; `demand`: without a backlog, which is worked off once and no habit either."""

    at_s: float
    keep: int
    demand: int


def spent(before: FirstTokens, then: FirstTokens, now: FirstTokens, span_s: float) -> FirstTokens:
    """What is remembered, brought forward by the counts of an interval."""
    keep = 0.5 ** (span_s / HALF_LIFE_S)
    answered = max(0.0, now.answered - then.answered)

    # Where a target was lowered, old first tokens become late at once: no more count than came.
    def grown(value: float, old: float) -> float:
        return min(answered, max(0.0, value - old))

    return FirstTokens(
        keep * before.answered + answered,
        keep * before.late + grown(now.late, then.late),
        keep * before.queued + grown(now.queued, then.queued),
    )


def caution(seen: FirstTokens, allowed: float) -> float:
    """0: the share that may be late was kept, nearly at least; 1: it was missed by far."""
    burn = min(seen.late, seen.queued) / (allowed * seen.answered + FREE)
    return 0.0 if burn <= CALM else min(1.0, math.log(burn / CALM) / math.log(ALARM / CALM))


def told(care: float) -> str:
    """The end of a reason: "" without caution."""
    return f", caution {care:.0%} after late first tokens" if round(care, 2) else ""
