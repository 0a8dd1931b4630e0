"""What a policy can see of a fleet: samples taken each second, some seconds old, and windows over them.

A sample is one scrape: gauges of every replica that answered, and counters and histograms that run since the start. A
window is the difference of two samples. Histograms are logarithmic, 12 % a bucket; a percentile is read at the upper end
of its bucket, so it errs by 12 % at most and never to the flattering side.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import accumulate, islice
from operator import sub
from typing import NamedTuple

from headway_planner.model import BatchLimits

_PER_E = 1 / math.log(1.12)
_OFFSET = round(-math.log(0.1) * _PER_E)  # bucket 0 begins at 0.1 ms
BUCKETS = _OFFSET + round(math.log(3.6e6) * _PER_E)  # the last one holds an hour and more


def bucket(milliseconds: float) -> int:
    """The histogram bucket of a latency."""
    if milliseconds <= 0.1:
        return 0
    index = int(math.log(milliseconds) * _PER_E + _OFFSET)
    return index if index < BUCKETS else BUCKETS - 1


def above(counts: Sequence[int], bound_ms: float) -> int:
    """How many values of a histogram are longer than a bound; those in the bound's own bucket are not counted."""
    return sum(counts[bucket(bound_ms) + 1 :])


def _empty() -> list[int]:
    return [0] * BUCKETS


@dataclass(slots=True)
class Counts:
    """Counters and histograms since the start, of a fleet or of some of its requests; a sample has a copy of them."""

    arrivals: int = 0
    input_tokens: int = 0  # prompt tokens of the arrivals
    input_squares: int = 0  # sum of their squares: attention grows with it
    finished: int = 0
    output_tokens: int = 0
    prefilled_tokens: int = 0
    steps: int = 0
    busy_ms: float = 0.0  # time of the steps
    ttft: list[int] = field(default_factory=_empty)
    queue_wait: list[int] = field(default_factory=_empty)
    prefill: list[int] = field(default_factory=_empty)
    itl: list[int] = field(default_factory=_empty)
    tpot: list[int] = field(default_factory=_empty)

    def copy(self) -> "Counts":
        """These counts at this moment."""
        return Counts(*(getattr(self, name) for name in _TOTALS), *(getattr(self, name)[:] for name in _HISTOGRAMS))

    def less(self, other: "Counts") -> "Counts":
        """What is in these and not in the other ones, which are earlier or a part of them."""
        return Counts(
            *(getattr(self, name) - getattr(other, name) for name in _TOTALS),
            *(list(map(sub, getattr(self, name), getattr(other, name))) for name in _HISTOGRAMS),
        )


# In the order of the fields.
_TOTALS = tuple(one.name for one in fields(Counts) if one.default_factory is MISSING)
_HISTOGRAMS = tuple(one.name for one in fields(Counts) if one.default_factory is not MISSING)


class Counters:
    """What replicas add to, of the whole fleet.

    `deferred`: of the requests with a deadline alone, whose share is in `fleet` as well, where it is a request that is counted
    and no step or prefilled token; None: they are not told apart.
    """

    __slots__ = ("deferred", "fleet")

    def __init__(self, *, apart: bool) -> None:
        self.fleet = Counts()
        self.deferred = Counts() if apart else None


class ReplicaSample(NamedTuple):  # one is made for each replica and second, and a frozen dataclass costs twice as much
    """Gauges of one replica that takes requests."""

    running: int
    waiting: int
    kv_usage: float
    queued_tokens: int  # prompt tokens that are still to be computed
    deferred: "DeferredGauges | None" = None


@dataclass(frozen=True, slots=True)
class DeferredGauges:
    """Of the gauges of a replica: the requests with a deadline."""

    running: int
    waiting: int
    queued_tokens: int


@dataclass(frozen=True, slots=True)
class DeferredSample:
    """Of a sample: the requests with a deadline. `held`, `held_tokens`: at the gateway; `counts`: see `Counters`."""

    held: int
    held_tokens: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape of the fleet. `held`: requests that wait at the gateway because no replica takes them."""

    at_s: float
    serving: int
    replicas: tuple[ReplicaSample, ...]
    held: int
    counts: Counts
    deferred: DeferredSample | None = None

    @property
    def waiting(self) -> int:
        """Requests without a place in a batch, those at the gateway included."""
        return self.held + sum(replica.waiting for replica in self.replicas)

    @property
    def running(self) -> int:
        """Requests in a batch."""
        return sum(replica.running for replica in self.replicas)

    @property
    def in_flight(self) -> int:
        """Requests that arrived and did not end."""
        return self.waiting + self.running


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two samples."""

    first: Sample
    last: Sample

    @property
    def span_s(self) -> float:
        """Length; 0 when there is only one sample."""
        return self.last.at_s - self.first.at_s

    @property
    def arrivals(self) -> int:
        """Requests that arrived."""
        return self.last.counts.arrivals - self.first.counts.arrivals

    @property
    def finished(self) -> int:
        """Requests that finished."""
        return self.last.counts.finished - self.first.counts.finished

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of the requests that arrived."""
        return self.last.counts.input_tokens - self.first.counts.input_tokens

    @property
    def output_tokens(self) -> int:
        """Tokens that were made."""
        return self.last.counts.output_tokens - self.first.counts.output_tokens

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that were computed."""
        return self.last.counts.prefilled_tokens - self.first.counts.prefilled_tokens

    def rate(self, count: int) -> float:
        """`count` per second of the window."""
        return count / self.span_s if self.span_s > 0 else 0.0

    def quantile(self, name: str, share: float) -> float | None:
        """A percentile of `ttft`, `queue_wait`, `prefill`, `itl` or `tpot`, milliseconds; None without values."""
        return quantile(self.histogram(name), share)

    def histogram(self, name: str) -> list[int]:
        """What `ttft`, `queue_wait`, `prefill`, `itl` or `tpot` counted."""
        return list(map(sub, getattr(self.last.counts, name), getattr(self.first.counts, name)))


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The upper end of the bucket that holds the percentile."""
    seen = list(accumulate(counts))
    rank = share * seen[-1]
    return math.exp((bisect_left(seen, rank) + 1 - _OFFSET) / _PER_E) if rank > 0 else None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a policy may do."""

    min_replicas: int
    max_replicas: int
    seqs_max: int
    tokens_max: int
    baseline: BatchLimits

    def clamp(self, replicas: float) -> int:
        """A count inside the bounds; what is not a number is the minimum."""
        if math.isnan(replicas):
            return self.min_replicas
        return int(min(max(replicas, self.min_replicas), self.max_replicas))


class FleetView:
    """The fleet as a policy sees it now: counts of pods are fresh, samples are as old as the metrics path makes them."""

    __slots__ = ("_samples", "desired", "limits", "now_s", "ready", "starting", "starts")

    def __init__(
        self,
        samples: deque[Sample],
        now_s: float,
        pods: tuple[int, int, int],
        limits: BatchLimits,
        starts: tuple[float, ...] = (),
    ) -> None:
        """`samples`: what has arrived, oldest first, at least one. `pods`: desired, ready, starting.

        `starts`: seconds from order to service of each ready replica, oldest first.
        """
        self._samples = samples
        self.now_s = now_s
        self.desired, self.ready, self.starting = pods
        self.limits = limits
        self.starts = starts

    @property
    def latest(self) -> Sample:
        """The newest sample that has arrived."""
        return self._samples[-1]

    def samples(self, span_s: float) -> list[Sample]:
        """The samples of the last `span_s` seconds of the metrics' own time, oldest first, the newest always."""
        since = self._samples[-1].at_s - span_s
        count = 0
        for sample in reversed(self._samples):
            if sample.at_s < since:
                break
            count += 1
        return list(islice(self._samples, len(self._samples) - count, None))

    def window(self, span_s: float) -> Window:
        """The last `span_s` seconds, shorter at the start of a run."""
        since = self._samples[-1].at_s - span_s
        first = self._samples[-1]
        for sample in reversed(self._samples):
            first = sample
            if sample.at_s <= since:
                break
        return Window(first, self._samples[-1])

    def in_flight_mean(self, span_s: float) -> float:
        """Mean requests in flight over a window."""
        found = self.samples(span_s)
        return sum(sample.in_flight for sample in found) / len(found)
