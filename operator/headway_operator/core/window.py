"""GetStats samples of one engine to what it did over a window.

Counters and histograms run since an engine's boot; a window is the difference of its last sample and the last one before
the window began. A restart inside the window is seen by the boot id: what the new process counted all happened since.
An engine whose last sample is old, or whose numbers contradict themselves, does not report.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from headway_operator.core import histogram
from headway_operator.core.histogram import EMPTY, Histogram
from headway_operator.core.objectives import ClassCounts
from headway_operator.core.observed import ClassSample, EngineSample, arrivals
from headway_operator.core.pods import STALE_S

COUNTERS = (
    "requests_received",
    "requests_rejected",
    "requests_finished",
    "prompt_tokens",
    "generation_tokens",
    "preemptions",
    "queue_full",
)
CLASS_HISTOGRAMS = ("ttft", "queue_wait", "itl")
HISTOGRAMS = ("ttft", "queue_wait", "prefill", "itl", "step")
_Boot: TypeAlias = tuple[EngineSample, EngineSample, bool]  # see `_boots`
GAUGES = 16  # samples that a mean of gauges is taken over, at least where there are so many


@dataclass(frozen=True, slots=True)
class PodWindow:
    """One engine over a window. Gauges are means over its samples; `running_now` is of the newest one."""

    span_s: float
    running: float
    running_now: int
    waiting: float
    waiting_batch: float  # of those, requests of the batch class
    running_batch: float
    kv_usage: float
    active: bool
    counts: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    classes: Mapping[str, ClassCounts]


def pod_window(samples: Sequence[EngineSample], now_s: float, window_s: float) -> PodWindow | None:
    """One engine over the last `window_s`; None when it is silent or contradicts itself."""
    if not samples or now_s - samples[-1].taken_s > STALE_S:
        return None
    begins = bisect_left(samples, now_s - window_s, hi=len(samples) - 1, key=lambda sample: sample.taken_s)
    boots = list(_boots(samples[max(0, begins - 1) :]))
    looked = _thinned(samples[begins:])
    if not all(_sane(sample) for sample in looked):
        return None
    counts = dict.fromkeys(COUNTERS, 0)
    parts: dict[str, list[Histogram]] = {name: [] for name in HISTOGRAMS}
    for first, last, rebooted in boots:
        for name in COUNTERS:
            grown = getattr(last, name) - (0 if rebooted else getattr(first, name))
            if grown < 0:
                return None
            counts[name] += grown
        for name in HISTOGRAMS:
            difference = histogram.subtract(getattr(last, name), EMPTY if rebooted else getattr(first, name))
            if difference is None:
                return None
            parts[name].append(difference)
    classes = _classes(boots)
    if classes is None:
        return None
    return PodWindow(
        span_s=samples[-1].taken_s - boots[0][0].taken_s,
        running=_mean([sample.num_running for sample in looked]),
        running_now=samples[-1].num_running,
        waiting=_mean([sample.num_waiting for sample in looked]),
        waiting_batch=_mean([sample.num_waiting_batch for sample in looked]),
        running_batch=_mean([sample.running_batch for sample in looked]),
        kv_usage=_mean([sample.kv_usage for sample in looked]),
        active=arrived(counts) > 0 or any(sample.num_running or sample.num_waiting for sample in looked),
        counts=counts,
        histograms={name: histogram.merge(found) for name, found in parts.items()},
        classes=classes,
    )


def answer(series: Sequence[EngineSample], now_s: float) -> EngineSample | None:
    """The newest sample if it is fresh and does not contradict itself, nor the one before it."""
    last = series[-1] if series else None
    if last is None or now_s - last.taken_s > STALE_S or not _sane(last):
        return None
    before = series[-2] if len(series) > 1 else last
    grew = last.requests_received >= before.requests_received and last.generation_tokens >= before.generation_tokens
    return last if grew or before.boot_id != last.boot_id else None


def _thinned(samples: Sequence[EngineSample]) -> Sequence[EngineSample]:
    """Enough of the samples for means of gauges, the newest among them."""
    step = max(1, len(samples) // GAUGES)
    return samples if step == 1 else samples[::-step]


def _classes(boots: Iterable[_Boot]) -> Mapping[str, ClassCounts] | None:
    """What each class counted over the boots of one engine; None for a contradiction."""
    parts: list[dict[str, ClassCounts]] = []
    for first, last, rebooted in boots:
        grown: dict[str, ClassCounts] = {}
        for kind, newer in last.classes.items():
            older = ClassSample() if rebooted else first.classes.get(kind, ClassSample())
            differences = [histogram.subtract(getattr(newer, name), getattr(older, name)) for name in CLASS_HISTOGRAMS]
            if any(difference is None for difference in differences):
                return None
            grown[kind] = ClassCounts(*(difference or EMPTY for difference in differences))
        parts.append(grown)
    return parts[0] if len(parts) == 1 else merged(parts)


def merged(parts: Iterable[Mapping[str, ClassCounts]]) -> dict[str, ClassCounts]:
    """What each class counted in several windows together."""
    found = list(parts)
    return {
        kind: ClassCounts(
            *(histogram.merge(getattr(part[kind], name) for part in found if kind in part) for name in CLASS_HISTOGRAMS)
        )
        for kind in sorted({kind for part in found for kind in part})
    }


def _boots(series: Sequence[EngineSample]) -> Iterable[_Boot]:
    """First and last sample of each run of one boot id, and whether that boot began inside the series."""
    first, rebooted = series[0], False
    for one, other in pairwise(series):
        if one.boot_id != other.boot_id:
            yield first, one, rebooted
            first, rebooted = other, True
    yield first, series[-1], rebooted


def arrived(counts: Mapping[str, int]) -> int:
    """Requests that came and were demand; one that turned out invalid after it was seen to come is no contradiction."""
    return arrivals(counts["requests_received"], counts["requests_rejected"], counts["queue_full"])


def _sane(sample: EngineSample) -> bool:
    return sample.num_running >= 0 and sample.num_waiting >= 0 and 0 <= sample.kv_usage <= 1.01  # nor is a NaN


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
