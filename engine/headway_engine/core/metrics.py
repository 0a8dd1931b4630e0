"""What the scheduler counts: latencies of requests and steps, and totals since boot.

`Metrics` is written by the step thread only. `snapshot` freezes it, in some microseconds, so that the step thread can
publish one after each step and readers need no lock.
"""

from collections import Counter
from dataclasses import dataclass, field

from headway_engine.core.histogram import Histogram, HistogramRecorder
from headway_engine.core.request import FinishReason


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


@dataclass(slots=True)
class Metrics:
    """The recorders; times are given in seconds and recorded in milliseconds."""

    ttft: HistogramRecorder = field(default_factory=HistogramRecorder)
    queue_wait: HistogramRecorder = field(default_factory=HistogramRecorder)
    prefill: HistogramRecorder = field(default_factory=HistogramRecorder)
    itl: HistogramRecorder = field(default_factory=HistogramRecorder)
    e2e: HistogramRecorder = field(default_factory=HistogramRecorder)
    step: HistogramRecorder = field(default_factory=HistogramRecorder)
    finished: Counter[FinishReason] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    steps: int = 0

    def snapshot(self) -> MetricsSnapshot:
        """The figures now."""
        return MetricsSnapshot(
            ttft=self.ttft.snapshot(),
            queue_wait=self.queue_wait.snapshot(),
            prefill=self.prefill.snapshot(),
            itl=self.itl.snapshot(),
            e2e=self.e2e.snapshot(),
            step=self.step.snapshot(),
            finished=tuple(self.finished.items()),
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            generation_tokens=self.generation_tokens,
            preemptions=self.preemptions,
            steps=self.steps,
        )
