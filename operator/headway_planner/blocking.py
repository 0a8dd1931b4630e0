"""Prompts that are late because a long one is before them in their own engine, however much the others have free.

The forecast replays the demand against one server of all engines (`forecast.py`), which sees what waits for the fleet. But an engine
computes one prompt after another, and those that were sent to it wait for its own. So each engine is a queue of its own, to which
prompts come at random (M/G/1, Pollaczek and Khinchine). With S the time that a prompt's prefill takes and T the target:

    e(x)  = P(S > x) / E[S]                      what is left of the prompt that an arrival finds there
    W     = sum of a geometric number (busy) of such e      its wait, busy being the prefill seconds that come to an engine each second
    late  = SPARED * P(S <= T < W + S)           a prompt with S > T alone is late on an idle engine: no count helps it
    least n with late(prompts / n) <= max(LATE, HALF * P(S > T))

Arrivals do not choose at random: the engine with the least in flight gets them, which leaves SPARED of these late ones. `late` falls
about as 1 / n and never to nothing, so where prompts are long no count reaches a share like 0.2 %: from LATE on a tenth more
replicas make less than 0.3 % of the requests punctual. Where a share of the prompts misses the target alone, half as many may wait too long.

Lengths are those of the engines' histogram of prefill times. Beside full batches a prompt takes longer, which more engines cure:
then they are scaled to the mean that the step model gives.
"""

from dataclasses import dataclass
from operator import mul
from typing import TypeAlias

Prefills: TypeAlias = tuple[tuple[float, float], ...]  # milliseconds, and how many took as long

BINS = 20  # of the target
BUCKET = 0.11  # width of a histogram's bucket, as a share of its middle
SPARED = 0.42  # fixed fleets of 8 to 24 engines on Mooncake's traces, second half and backwards: 0.29 to 0.55
LATE, HALF = 0.03, 0.5
KEPT = 1.15  # so many times fewer may be late after a removal: a count near its border would come and go
HALF_LIFE_S = 600.0
ENOUGH = 100.0  # requests whose prefill is remembered, before it is believed
FORGOTTEN = 1e-3  # requests


@dataclass(frozen=True, slots=True)
class Law:
    """How long prefills take, in twentieths of the target.

    Attributes:
        left: probability of each length of what is left of a prompt; the rest is longer than the target.
        room: share of the prompts that may wait for so long.
        alone: share that may not wait at all, since they miss the target alone.
    """

    left: tuple[float, ...]
    room: tuple[float, ...]
    alone: float


def remembered(before: Prefills, rates: Prefills, span_s: float) -> Prefills:
    """With what was computed in `span_s` seconds. `rates`: requests a second by length."""
    keep = 0.5 ** (span_s / HALF_LIFE_S)
    found = {length: keep * count for length, count in before}
    for length, rate in rates:
        found[length] = found.get(length, 0.0) + rate * span_s
    return tuple((length, count) for length, count in found.items() if count > FORGOTTEN)


def law(prefills: Prefills, mean_ms: float, target_ms: float) -> Law | None:
    """None: too few are known. `mean_ms`: at the most, see the module."""
    total = sum(count for _, count in prefills)
    spent_ms = sum(length * count for length, count in prefills)
    if total < ENOUGH or spent_ms <= 0 or mean_ms <= 0:
        return None
    scale = min(1.0, mean_ms * total / spent_ms) * BINS / target_ms  # milliseconds to bins
    inside, parts, room, longer = [0.0] * BINS, [0.0] * BINS, [0.0] * BINS, 0.0
    for length, count in prefills:
        place = length * scale
        # A bucket of the histogram that holds the target is parted, or the scale would move it as a whole.
        over = min(1.0, max(0.0, 0.5 + (place / BINS - 1) / BUCKET))
        longer += over * count
        within, place = (1 - over) * count, min(place, BINS - 0.5)
        whole = int(place)
        inside[whole] += within
        parts[whole] += within * (place - whole)
        room[min(BINS - 1, int(BINS - place))] += within / total
    left, alone = [0.0] * (BINS + 1), longer / total
    for step in range(BINS - 1, -1, -1):
        # What is left lies anywhere between two places of the grid: half of it counts for each.
        half = 0.5 * (longer + parts[step]) / (scale * spent_ms)
        left[step] += half
        left[step + 1] += half
        longer += inside[step]
    return Law(tuple(left[:BINS]), tuple(room), alone)


def late(queue: Law, busy: float) -> float:
    """Share of all prompts that another one makes late, in engines that are `busy` (0..1) with prefills."""
    busy = min(busy, 1.0)
    taken = 1 - busy * queue.left[0]
    waits, within, share = [(1 - busy) / taken], 0.0, 0.0
    growing = tuple(busy / taken * one for one in queue.left)
    for place, room in enumerate(queue.room):
        if place:
            waits.append(sum(map(mul, growing[1 : place + 1], reversed(waits))))
        within += waits[place]
        share += room * (1 - within)
    return SPARED * share


def engines_apart(queue: Law | None, prompts: float, most: int) -> tuple[int, int]:
    """The fewest engines, `most` at the most, for `prompts` seconds of prefill each second: before an order, before a removal.

    Without a law 1.
    """
    if queue is None:
        return 1, 1
    allowed = max(LATE, HALF * queue.alone)
    up = _fewest(queue, prompts, allowed, (1, most))
    return up, _fewest(queue, prompts, allowed / KEPT, (up, most))


def _fewest(queue: Law, prompts: float, allowed: float, between: tuple[int, int]) -> int:
    low, high = between
    while low < high:
        middle = (low + high) // 2
        if late(queue, prompts / middle) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
