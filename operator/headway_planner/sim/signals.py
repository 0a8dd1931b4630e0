"""What a policy can see of a fleet: samples taken each second, some seconds old, and windows over them.

A sample is one scrape: gauges of every replica that answered, and counters and histograms that run since the start. A
window is the difference of two samples. Histograms are logarithmic, 12 % a bucket; a percentile is read at the upper end
of its bucket, so it errs by 12 % at most and never to the flattering side.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

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


class Counters:
    """Counters and histograms of the whole fleet since the start; replicas add to them.

    `deferred`: of the requests with a deadline alone, whose share is in the others as well; None: they are not told apart.
    """

    __slots__ = (
        "arrivals", "busy_ms", "deferred", "finished", "input_squares", "input_tokens", "itl", "output_tokens", "prefill",
        "prefilled_tokens", "queue_wait", "steps", "tpot", "ttft",
    )  # fmt: skip

    def __init__(self, deferred: "Counters | None" = None) -> None:
        self.deferred = deferred
        self.arrivals = 0
        self.input_tokens = 0  # prompt tokens of the arrivals
        self.input_squares = 0  # sum of their squares: attention grows with it
        self.finished = 0
        self.output_tokens = 0
        self.prefilled_tokens = 0
        self.steps = 0
        self.busy_ms = 0.0  # time of the steps
        self.ttft = [0] * BUCKETS
        self.queue_wait = [0] * BUCKETS
        self.prefill = [0] * BUCKETS
        self.itl = [0] * BUCKETS
        self.tpot = [0] * BUCKETS


@dataclass(frozen=True, slots=True)
class ReplicaSample:
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
    """Of the counters and histograms of a sample: the requests with a deadline. `held`, `held_tokens`: at the gateway."""

    held: int
    held_tokens: int
    arrivals: int
    input_tokens: int
    input_squares: int
    finished: int
    output_tokens: int
    ttft: Sequence[int]
    queue_wait: Sequence[int]
    prefill: Sequence[int]
    itl: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape of the fleet. `held`: requests that wait at the gateway because no replica takes them."""

    at_s: float
    serving: int
    replicas: tuple[ReplicaSample, ...]
    held: int
    arrivals: int
    input_tokens: int
    input_squares: int
    finished: int
    output_tokens: int
    prefilled_tokens: int
    ttft: Sequence[int]
    queue_wait: Sequence[int]
    prefill: Sequence[int]
    itl: Sequence[int]
    tpot: Sequence[int]
    steps: int = 0
    busy_ms: float = 0.0
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
        return self.last.arrivals - self.first.arrivals

    @property
    def finished(self) -> int:
        """Requests that finished."""
        return self.last.finished - self.first.finished

    def rate(self, count: int) -> float:
        """`count` per second of the window."""
        return count / self.span_s if self.span_s > 0 else 0.0

    def quantile(self, name: str, share: float) -> float | None:
        """A percentile of `ttft`, `queue_wait`, `prefill`, `itl` or `tpot`, milliseconds; None without values."""
        return quantile(self._histogram(name), share)

    def count(self, name: str) -> int:
        """How many values a histogram got."""
        return sum(self._histogram(name))

    def _histogram(self, name: str) -> list[int]:
        after, before = getattr(self.last, name), getattr(self.first, name)
        return [one - other for one, other in zip(after, before, strict=True)]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The upper end of the bucket that holds the percentile."""
    rank = share * sum(counts)
    if rank <= 0:
        return None
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return math.exp((index + 1 - _OFFSET) / _PER_E)
    return None


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
