"""A dense log-bucket histogram of durations in milliseconds, as `headway.v1.Histogram` describes it.

Bucket i counts values in [0.1 * 1.1**i, 0.1 * 1.1**(i+1)). 170 buckets reach 0.1 ms * 1.1**170 = 1.08e6 ms, which is
18 minutes; smaller values go to the first bucket and larger ones to the last. A quantile read at a bucket's middle is
within 5 %.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

NUM_BUCKETS = 170
SMALLEST_MS = 0.1
GROWTH = 1.1
# Lower edges of the buckets from 1 on. A search among them is exact at the edges, where a logarithm would round.
_EDGES = tuple(SMALLEST_MS * GROWTH**index for index in range(1, NUM_BUCKETS))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts at one moment. Trailing empty buckets are left out."""

    buckets: tuple[int, ...] = ()
    count: int = 0
    sum_ms: float = 0.0

    def quantile(self, share: float) -> float | None:
        """The value below which `share` of the recorded values lie, in ms; None when there is none."""
        if self.count == 0:
            return None
        rank = share * self.count
        seen = 0
        for index, bucket in enumerate(self.buckets):
            seen += bucket
            if bucket and seen >= rank:
                return float(SMALLEST_MS * GROWTH ** (index + 0.5))
        return float(SMALLEST_MS * GROWTH ** (len(self.buckets) - 0.5))


def total(parts: Iterable[Histogram]) -> Histogram:
    """The sum of histograms; the one that is not empty, as it is, when there are no others."""
    found = [part for part in parts if part.count]
    if len(found) < 2:
        return found[0] if found else Histogram()
    buckets = tuple(map(sum, zip_longest(*(part.buckets for part in found), fillvalue=0)))
    return Histogram(buckets, sum(part.count for part in found), sum(part.sum_ms for part in found))


class HistogramRecorder:
    """Records durations; written by one thread, whose `snapshot` any thread may keep."""

    __slots__ = ("_buckets", "_count", "_frozen", "_sum_ms", "_used")

    def __init__(self) -> None:
        self._buckets = [0] * NUM_BUCKETS
        self._count = 0
        self._used = 0  # buckets up to the last one that is not empty
        self._sum_ms = 0.0
        self._frozen: Histogram | None = Histogram()

    def record(self, value_ms: float, times: int = 1) -> None:
        """Count a duration; a negative one (a clock that was read in another order) counts as 0."""
        index = bisect_right(_EDGES, value_ms)
        self._buckets[index] += times
        self._frozen = None
        self._count += times
        if index >= self._used:
            self._used = index + 1
        if value_ms > 0:
            self._sum_ms += value_ms * times

    def snapshot(self) -> Histogram:
        """The counts now; one snapshot is taken after each step, and most recorders have nothing new then."""
        if self._frozen is None:
            self._frozen = Histogram(tuple(self._buckets[: self._used]), self._count, self._sum_ms)
        return self._frozen
