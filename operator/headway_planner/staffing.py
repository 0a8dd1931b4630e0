"""How many replicas a stretch of demand needs, by replaying it.

Demand is work per second in engines: 1.0 keeps one engine busy at the rate that it sustains. A candidate count is tried on
the seconds of the past: work that arrives queues behind what is there, the count works it off, and what waits longer than
the slack is late. As in the engines, what is late lets the rest go first, but for its turn: so what is too much is late, and
not all that comes meanwhile. The answer is the smallest count that leaves no more late work than allowed. No distribution is
assumed: bursts count as long and as high as they were.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

UTILIZATION = 0.95  # share of the sustained rate that is planned with
PATIENCE, LATE_TURN = 0.75, 4  # of engines: share of the TTFT target after which a request is late; one in so many is


def late_share(
    work: Sequence[float], replicas: float, slack_s: float, enough: float = math.inf, help_s: float = math.inf
) -> float:
    """Share of the work that waits longer than `slack_s` when `replicas` serve it; `work` is one value a second.

    Over `enough` it is not counted to the end. A queue that has stood for `help_s` is gone: what was ordered for it serves.
    """
    serves = UTILIZATION * replicas
    most, full_turn = slack_s * serves, serves / LATE_TURN
    total = sum(work)
    timely = behind = late = stood_s = 0.0
    for arrived in work:
        if not timely and not behind and arrived <= serves:
            stood_s = 0.0
            continue
        stood_s += 1.0
        if stood_s > help_s:
            timely = behind = stood_s = 0.0
        turn = behind if behind < full_turn else full_turn  # noqa: FURB136 - an hour of seconds for each count, and `min` is slow
        left = timely + arrived - (serves - turn)
        if left < 0.0:  # the late have the rest
            timely, behind = 0.0, max(0.0, behind - turn + left)
            continue
        timely, behind = left, behind - turn
        if left > most:
            late += left - most
            behind += left - most
            timely = most
            if late > enough * total:
                break
    return late / total if total > 0 else 0.0


def needed(
    work: Sequence[float],
    slack_s: Callable[[int], float],
    allowed: float,
    bounds: tuple[int, int],
    help_s: float = math.inf,
) -> int:
    """The smallest count within `bounds` with a late share of at most `allowed`; the upper bound when there is none.

    `slack_s`: of a count; a larger one may have no less work in the queue. Where a count serves each second in it, none waits.
    """
    least, most = bounds
    low, high = least, max(least, min(most, math.ceil(max(work, default=0.0) / UTILIZATION)))
    # Mostly what is looked for is `least`: what something else asks for already.
    middle = low
    while low < high:
        if late_share(work, middle, slack_s(middle), allowed, help_s) <= allowed:
            high = middle
        else:
            low = middle + 1
        middle = (low + high) // 2
    return low


def mean(values: Sequence[float]) -> float:
    """Of no value: 0."""
    return sum(values) / len(values) if values else 0.0


def rolling_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of the last `span` values at each position, of fewer at the begin."""
    sums = list(accumulate(values, initial=0.0))
    first = [total / count for count, total in enumerate(sums[1:span], 1)]
    return first + [(high - low) / span for high, low in zip(sums[span:], sums, strict=False)]


def centred_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of the `span` values around each position, of fewer at the ends."""
    sums = list(accumulate(values, initial=0.0))
    half, count = span // 2, len(values)
    width = 2 * half + 1
    if count < width:
        ends = [(max(0, index - half), min(count, index + half + 1)) for index in range(count)]
        return [(sums[high] - sums[low]) / (high - low) for low, high in ends]
    first = [sums[high] / high for high in range(half + 1, width)]
    full = [(high - low) / width for high, low in zip(sums[width:], sums, strict=False)]
    last = [(sums[count] - sums[low]) / (count - low) for low in range(count - width + 1, count - half)]
    return first + full + last


def rise(levels: list[float], spans: tuple[int, int], share: float) -> float:
    """How much a level rose at the most within a horizon: the given quantile over the past; 0.0 without a past.

    `spans`: the horizon, and the time that a level is a mean of. Each past moment counts whose horizon is over. What exceeds
    the quantile must have happened more than once: one rise is no rule, and a smaller one that did is taken instead. A
    difference and no ratio, because a burst does not depend on how quiet it was before.
    """
    horizon, span = spans
    step = max(1, len(levels) // 200)
    whole = (horizon + 1) // step
    peaks = [max(levels[index : index + step]) for index in range(0, len(levels), step)]
    rises: list[tuple[float, int]] = []
    for place, index in enumerate(range(0, len(levels) - horizon, step)):
        # The horizon in whole steps, whose maxima are known, and what is left of it.
        ahead = peaks[place : place + whole] + levels[index + whole * step : index + horizon + 1]
        rises.append((max(ahead) - levels[index], index))
    rises.sort()
    if not rises:
        return 0.0
    place = min(len(rises) - 1, int(share * len(rises)))
    moments = [index for _, index in rises[place:]]
    first, last = min(moments), max(moments)
    while place > 0 and last - first <= horizon + span:
        place -= 1
        first, last = min(first, rises[place][1]), max(last, rises[place][1])
    return rises[place][0]
