"""Log-bucket histograms of milliseconds, as the engines send them.

Bucket i counts values in [0.1 * 1.1^i, 0.1 * 1.1^(i+1)); trailing empty buckets are left out. Counts run since an
engine's boot, so a window is the difference of two histograms and a fleet is their sum. A quantile interpolates inside
its bucket on the log scale, which keeps it within 5 % of the true value.
"""

from collections.abc import Iterable
from itertools import zip_longest
from math import log
from operator import sub
from typing import TypeAlias

Histogram: TypeAlias = tuple[int, ...]

FIRST_MS = 0.1
GROWTH = 1.1
EMPTY: Histogram = ()


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """The sum of several histograms."""
    found = tuple(histograms)
    return found[0] if len(found) == 1 else tuple(map(sum, zip_longest(*found, fillvalue=0)))


def subtract(newer: Histogram, older: Histogram) -> Histogram | None:
    """What was counted between two readings; None when a bucket shrank, which no counter does."""
    if not older or newer == older:
        return newer if not older else EMPTY
    if len(newer) != len(older):
        length = max(len(newer), len(older))
        newer, older = _padded(newer, length), _padded(older, length)
    difference = tuple(map(sub, newer, older))
    return None if min(difference) < 0 else difference


def _padded(histogram: Histogram, length: int) -> Histogram:
    return histogram + (0,) * (length - len(histogram))


def count(histogram: Histogram) -> int:
    """How many values were counted."""
    return sum(histogram)


def share_within(histogram: Histogram, bound_ms: float) -> float | None:
    """The share (0..1) of the counted values up to `bound_ms`, interpolated inside its bucket; None when empty."""
    total = sum(histogram)
    if total <= 0:
        return None
    return 1 - above(histogram, bound_ms) / total


def above(histogram: Histogram, bound_ms: float) -> float:
    """How many of the counted values are longer than `bound_ms`, interpolated inside its bucket."""
    position = log(max(bound_ms, FIRST_MS) / FIRST_MS, GROWTH)
    whole = int(position)
    inside = histogram[whole] * (whole + 1 - position) if whole < len(histogram) else 0.0
    return inside + sum(histogram[whole + 1 :])


def quantile(histogram: Histogram, share: float) -> float | None:
    """The value in milliseconds that `share` (0..1) of the counted values do not exceed; None when empty."""
    total = sum(histogram)
    if total <= 0:
        return None
    rank = share * total
    below = 0
    for index, bucket in enumerate(histogram):
        if bucket and below + bucket >= rank:
            inside = (rank - below) / bucket
            return float(FIRST_MS * GROWTH ** (index + inside))
        below += bucket
    return float(FIRST_MS * GROWTH ** len(histogram))
