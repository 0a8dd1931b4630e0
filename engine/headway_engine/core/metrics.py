"""What the scheduler counts: latencies of requests and steps, and totals since boot.

`Metrics` is written by the step thread only. `snapshot` freezes it, in some microseconds, so that the step thread can
publish one after each step and readers need no lock.
"""

from collections import Counter
from dataclasses import dataclass, field

from headway_engine.core.histogram import Histogram, HistogramRecorder, total
from headway_engine.core.request import FinishReason, Priority


@dataclass(frozen=True, slots=True)
class ClassSnapshot:
    """The requests of one workload class; histograms as in `MetricsSnapshot`.

    `moved`: requests taken over from other engines less those given back; they are among none of the others. The last three, and what
    was taken over, are counted before the scheduler knows of a request, and 0 in its own snapshots.
    """

    ttft: Histogram
    queue_wait: Histogram
    itl: Histogram
    finished: int
    late: int
    prompt_tokens: int
    cached_prompt_tokens: int
    moved: int = 0
    admitted: int = 0
    prompt_tokens_admitted: int = 0
    refused: int = 0  # by a full queue


@dataclass(slots=True)
class ClassMetrics:
    """The recorders of one workload class."""

    ttft: HistogramRecorder = field(default_factory=HistogramRecorder)
    queue_wait: HistogramRecorder = field(default_factory=HistogramRecorder)
    itl: HistogramRecorder = field(default_factory=HistogramRecorder)
    finished: int = 0
    late: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    given_back: int = 0

    def snapshot(self) -> ClassSnapshot:
        """The figures now."""
        return ClassSnapshot(
            ttft=self.ttft.snapshot(),
            queue_wait=self.queue_wait.snapshot(),
            itl=self.itl.snapshot(),
            finished=self.finished,
            late=self.late,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            moved=-self.given_back,
        )


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """See `headway.v1.Stats` for the meaning of each figure."""

    ttft: Histogram
    queue_wait: Histogram
    prefill: Histogram
    itl: Histogram
    e2e: Histogram
    step: Histogram
    finished: tuple[tuple[FinishReason, int], ...]
    prompt_tokens: int
    cached_prompt_tokens: int
    generation_tokens: int
    preemptions: int
    steps: int
    classes: tuple[ClassSnapshot, ...]  # by `Priority`


@dataclass(slots=True)
class Metrics:
    """The recorders; times are given in seconds and recorded in milliseconds.

    What is counted by class is recorded there alone, for it comes with every token; the totals are sums.
    """

    prefill: HistogramRecorder = field(default_factory=HistogramRecorder)
    e2e: HistogramRecorder = field(default_factory=HistogramRecorder)
    step: HistogramRecorder = field(default_factory=HistogramRecorder)
    finished: Counter[FinishReason] = field(default_factory=Counter)
    generation_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    classes: tuple[ClassMetrics, ...] = field(default_factory=lambda: tuple(ClassMetrics() for _ in Priority))

    def prefill_began(self, kind: Priority, waited_s: float, prompt_tokens: int, cached: int) -> None:
        """A request's first prompt tokens are computed; `cached` of them all were in the prefix cache."""
        counts = self.classes[kind]
        counts.queue_wait.record(waited_s * 1000)
        counts.prompt_tokens += prompt_tokens
        counts.cached_prompt_tokens += cached

    def first_token(self, kind: Priority, since_arrival_s: float, since_prefill_s: float) -> None:
        """A request's first token came."""
        self.prefill.record(since_prefill_s * 1000)
        self.classes[kind].ttft.record(since_arrival_s * 1000)

    def next_tokens(self, kind: Priority, gap_s: float, tokens: int) -> None:
        """So many sequences got a further token this long after the one before."""
        self.classes[kind].itl.record(gap_s * 1000, tokens)

    def ended(self, kind: Priority, reason: FinishReason, since_arrival_s: float, batch_deadline_ms: int) -> None:
        """A request ended; batch work is late after its deadline, 0: it has none."""
        if reason is FinishReason.GIVEN_BACK:  # it goes on elsewhere
            self.classes[kind].given_back += 1
            return
        self.finished[reason] += 1
        self.e2e.record(since_arrival_s * 1000)
        self.classes[kind].finished += 1
        self.classes[kind].late += kind is Priority.BATCH and 0 < batch_deadline_ms < since_arrival_s * 1000

    def snapshot(self) -> MetricsSnapshot:
        """The figures now."""
        classes = tuple(one.snapshot() for one in self.classes)
        return MetricsSnapshot(
            ttft=total(one.ttft for one in classes),
            queue_wait=total(one.queue_wait for one in classes),
            prefill=self.prefill.snapshot(),
            itl=total(one.itl for one in classes),
            e2e=self.e2e.snapshot(),
            step=self.step.snapshot(),
            finished=tuple(self.finished.items()),
            prompt_tokens=sum(one.prompt_tokens for one in classes),
            cached_prompt_tokens=sum(one.cached_prompt_tokens for one in classes),
            generation_tokens=self.generation_tokens,
            preemptions=self.preemptions,
            steps=self.steps,
            classes=classes,
        )
