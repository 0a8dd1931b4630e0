"""How many replicas a stretch of demand needs, by replaying it.

Demand is work per second in engines: 1.0 keeps one engine busy at the rate that it sustains. A candidate count is tried on
the seconds of the past: work that arrives queues behind what is there, the count works it off, and what waits longer than
the slack is late. The answer is the smallest count that leaves no more late work than allowed. No distribution is assumed:
bursts count as long and as high as they were.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

UTILIZATION = 0.95  # share of the sustained rate that is planned with


def late_share(work: Sequence[float], replicas: float, slack_s: float) -> float:
    """Share of the work that waits longer than `slack_s` when `replicas` serve it; `work` is one value a second."""
    serves = UTILIZATION * replicas
    most = slack_s * serves
    backlog = late = total = 0.0
    for arrived in work:
        total += arrived
        # The second's own arrivals wait for each other, half of them on average.
        if (backlog + 0.5 * (arrived - serves) if arrived > serves else backlog) > most:
            late += arrived
        left = backlog + arrived - serves
        backlog = left if left > 0.0 else 0.0  # noqa: FURB136 - an hour of seconds for each count, and `max` is slow
    return late / total if total > 0 else 0.0


def needed(work: Sequence[float], slack_s: Callable[[int], float], allowed: float, most: int) -> int:
    """The smallest count, 1 to `most`, with a late share of at most `allowed`; `most` when there is none."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if late_share(work, middle, slack_s(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


def rolling_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of the last `span` values at each position, of fewer at the begin."""
    found = [total / count for count, total in enumerate(accumulate(values[:span]), 1)]
    total = sum(values[:span])
    for value, gone in zip(values[span:], values, strict=False):
        total = total + value - gone
        found.append(total / span if total > 0.0 else 0.0)
    return found


def centred_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of the `span` values around each position, of fewer at the ends."""
    sums = list(accumulate(values, initial=0.0))
    half, count = span // 2, len(values)
    width = 2 * half + 1

    def around(index: int) -> float:
        low, high = max(0, index - half), min(count, index + half + 1)
        return (sums[high] - sums[low]) / (high - low)

    if count < width:
        return [around(index) for index in range(count)]
    full = ((high - low) / width for high, low in zip(sums[width:], sums, strict=False))
    return [*map(around, range(half)), *full, *map(around, range(count - half, count))]


def rise(levels: Sequence[float], spans: tuple[int, int], share: float) -> float:
    """How much a level rose at the most within a horizon: the given quantile over the past; 0.0 without a past.

    `spans`: the horizon, and the time that a level is a mean of. Each past moment counts whose horizon is over. What exceeds
    the quantile must have happened more than once: one rise is no rule, and a smaller one that did is taken instead. A
    difference and no ratio, because a burst does not depend on how quiet it was before.
    """
    horizon, span = spans
    step = max(1, len(levels) // 200)
    ahead = _maxima(levels, horizon)
    rises = sorted((ahead[index] - levels[index], index) for index in range(0, len(levels) - horizon, step))
    if not rises:
        return 0.0
    place = min(len(rises) - 1, int(share * len(rises)))
    moments = [index for _, index in rises[place:]]
    first, last = min(moments), max(moments)
    while place > 0 and last - first <= horizon + span:
        place -= 1
        first, last = min(first, rises[place][1]), max(last, rises[place][1])
    return rises[place][0]


def _maxima(values: Sequence[float], span: int) -> list[float]:
    """The maximum of the `span` values that follow each position, itself included (as many as there are)."""
    found = [0.0] * len(values)
    candidates: list[int] = []  # positions to the right, values falling from the end of the list to its begin
    head = 0
    for index in range(len(values) - 1, -1, -1):
        while len(candidates) > head and values[candidates[-1]] <= values[index]:
            candidates.pop()
        candidates.append(index)
        while candidates[head] > index + span:
            head += 1
        found[index] = values[candidates[head]]
    return found
