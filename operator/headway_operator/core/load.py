"""GetStats samples to one load window of the fleet.

Counters and histograms run since an engine's boot; a window is the difference of its last sample and the last one before
the window began. A restart inside the window is seen by the boot id: what the new process counted all happened since.
An engine whose last sample is old, or whose numbers contradict themselves, does not report; the others decide.

Every engine of a fleet does the same work, so the windows of a fleet with more than `MOST` engines are those of `MOST` of
them, evenly spread over the names: percentiles are theirs, sums are raised by the share. Whether an engine answers is looked
at for each.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from headway_operator.core import histogram
from headway_operator.core.histogram import EMPTY, Histogram
from headway_operator.core.objectives import ClassCounts, ClassLoad, Verdict, latency
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.pods import STALE_S
from headway_planner.model import Latency, LoadView

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
MOST = 64  # engines whose windows are taken; a percentile of their requests errs less than a histogram's bucket
GAUGES = 16  # samples that a mean of gauges is taken over, at least where there are so many
HISTOGRAMS = ("ttft", "queue_wait", "prefill", "itl", "step")


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


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """The fleet over a window: the policy's view, and what the status shows beside it."""

    view: LoadView
    tokens_per_s: float
    queue_depth: int
    last_sample_s: float | None
    silent: tuple[str, ...]  # serving pods that do not report
    preemptions: int
    queue_full: int  # requests that were refused because the queue was full
    step: Latency  # engine steps, at the percentile of the time between tokens
    busiest_mean: float  # running requests of the busiest engine, a mean over the window
    prompt_tokens: int  # computed or found in the prefix cache
    classes: Mapping[str, ClassCounts] = field(default_factory=dict)  # by workload class
    waiting_batch: float = 0.0  # batch requests that wait
    latest: Mapping[str, EngineSample] = field(default_factory=dict)  # of each serving pod that reports
    share: float = 1.0  # engines that each one stands for whose latencies are pooled; counts are of all
    running_batch: float = 0.0  # batch requests that run


def pod_window(samples: Sequence[EngineSample], now_s: float, window_s: float) -> PodWindow | None:
    """One engine over the last `window_s`; None when it is silent or contradicts itself."""
    if not samples or now_s - samples[-1].taken_s > STALE_S:
        return None
    inside = [sample for sample in samples if sample.taken_s >= now_s - window_s] or [samples[-1]]
    before = samples[len(samples) - len(inside) - 1] if len(samples) > len(inside) else None
    series = [before, *inside] if before is not None else inside
    looked = _thinned(inside)
    if not all(_sane(sample) for sample in looked):
        return None
    counts = dict.fromkeys(COUNTERS, 0)
    parts: dict[str, list[Histogram]] = {name: [] for name in HISTOGRAMS}
    for first, last, rebooted in _boots(series):
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
    classes = _classes(series)
    if classes is None:
        return None
    return PodWindow(
        span_s=series[-1].taken_s - series[0].taken_s,
        running=_mean(sample.num_running for sample in looked),
        running_now=series[-1].num_running,
        waiting=_mean(sample.num_waiting for sample in looked),
        waiting_batch=_mean(sample.num_waiting_batch for sample in looked),
        running_batch=_mean(sample.running_batch for sample in looked),
        kv_usage=_mean(sample.kv_usage for sample in looked),
        active=_arrivals(counts) > 0 or any(sample.num_running or sample.num_waiting for sample in looked),
        counts=counts,
        histograms={name: histogram.merge(found) for name, found in parts.items()},
        classes=classes,
    )


def fleet_load(
    serving: Sequence[str],
    samples: Mapping[str, tuple[EngineSample, ...]],
    now_s: float,
    window_s: float,
    percentiles: tuple[float, float] = (0.95, 0.95),
) -> FleetLoad:
    """The serving pods pooled, all classes together. `percentiles`: of the times to first token and between tokens."""
    latest = {name: last for name in serving if (last := _answer(samples.get(name, ()), now_s)) is not None}
    span = _Span(now_s, window_s, percentiles)
    windows = _windows(latest, samples, span)
    for refuted in [name for name, window in windows.items() if window is None]:
        del latest[refuted]
    engines = _Engines(
        latest=latest,
        silent=tuple(name for name in serving if name not in latest),
        queue_depth=sum(sample.num_waiting for sample in latest.values()),
        last_sample_s=max((sample.taken_s for sample in latest.values()), default=None),
    )
    return _load(windows, engines, span)


def shorter(
    load: FleetLoad,
    samples: Mapping[str, tuple[EngineSample, ...]],
    now_s: float,
    window_s: float,
    percentiles: tuple[float, float],
) -> FleetLoad:
    """A shorter window of the engines that a load was taken of: which ones answer is known."""
    span = _Span(now_s, window_s, percentiles)
    engines = _Engines(load.latest, load.silent, load.queue_depth, load.last_sample_s)
    return _load(_windows(load.latest, samples, span), engines, span)


@dataclass(frozen=True, slots=True)
class _Span:
    now_s: float
    window_s: float
    percentiles: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Engines:
    """What is asked of every engine, not only of those whose windows are taken: see `FleetLoad`."""

    latest: Mapping[str, EngineSample]
    silent: tuple[str, ...]
    queue_depth: int
    last_sample_s: float | None


def _windows(
    names: Collection[str], samples: Mapping[str, tuple[EngineSample, ...]], span: _Span
) -> dict[str, PodWindow | None]:
    return {name: pod_window(samples[name], span.now_s, span.window_s) for name in _spread(names)}


def _load(windows: Mapping[str, PodWindow | None], engines: _Engines, span: _Span) -> FleetLoad:
    found = [window for window in windows.values() if window is not None]
    reporting, serving = len(engines.latest), len(engines.latest) + len(engines.silent)
    share = reporting / len(found) if found else 1.0
    pooled = {name: histogram.merge(window.histograms[name] for window in found) for name in HISTOGRAMS}
    counts = {name: round(share * sum(window.counts[name] for window in found)) for name in COUNTERS}
    view = _view(found, share, counts, pooled, span.percentiles)
    speeds = (window.counts["generation_tokens"] / window.span_s for window in found if window.span_s > 0)
    return FleetLoad(
        view=replace(view, serving=serving, reporting=reporting, quiet=not view.active and reporting == serving),
        tokens_per_s=share * sum(speeds),
        queue_depth=engines.queue_depth,
        last_sample_s=engines.last_sample_s,
        silent=engines.silent,
        preemptions=counts["preemptions"],
        queue_full=counts["queue_full"],
        step=latency(pooled["step"], span.percentiles[1]),
        prompt_tokens=counts["prompt_tokens"],
        busiest_mean=max((window.running for window in found), default=0.0),
        classes=_merged(window.classes for window in found),
        waiting_batch=share * sum(window.waiting_batch for window in found),
        running_batch=share * sum(window.running_batch for window in found),
        latest=engines.latest,
        share=share,
    )


def _view(
    found: Sequence[PodWindow],
    share: float,
    counts: Mapping[str, int],
    pooled: Mapping[str, Histogram],
    percentiles: tuple[float, float],
) -> LoadView:
    """The windows together, of pods yet to be counted. `share`: engines that each window stands for."""
    computed = counts["prompt_tokens"] + counts["generation_tokens"]
    return LoadView(
        serving=0,
        reporting=0,
        span_s=max((window.span_s for window in found), default=0.0),
        waiting=share * sum(window.waiting for window in found),
        running=share * sum(window.running for window in found),
        busiest_running=max((max(window.running, window.running_now) for window in found), default=0.0),
        kv_usage=max((window.kv_usage for window in found), default=0.0),
        arrivals=_arrivals(counts),
        finished=counts["requests_finished"],
        prompt_share=counts["prompt_tokens"] / computed if computed else 0.0,
        active=any(window.active for window in found),
        ttft=latency(pooled["ttft"], percentiles[0]),
        queue_wait=latency(pooled["queue_wait"], percentiles[0]),
        prefill=latency(pooled["prefill"], percentiles[0]),
        itl=latency(pooled["itl"], percentiles[1]),
    )


def _thinned(samples: Sequence[EngineSample]) -> Sequence[EngineSample]:
    """Enough of the samples for means of gauges, the newest among them."""
    step = max(1, len(samples) // GAUGES)
    return samples if step == 1 else samples[::-step]


def _spread(names: Collection[str]) -> Collection[str]:
    """At most `MOST` of the names, evenly spread."""
    if len(names) <= MOST:
        return names
    ordered = list(names)
    return [ordered[index * len(ordered) // MOST] for index in range(MOST)]


def _answer(series: Sequence[EngineSample], now_s: float) -> EngineSample | None:
    """The newest sample if it is fresh and does not contradict itself, nor the one before it."""
    last = series[-1] if series else None
    if last is None or now_s - last.taken_s > STALE_S or not _sane(last):
        return None
    before = series[-2] if len(series) > 1 else last
    grew = last.requests_received >= before.requests_received and last.generation_tokens >= before.generation_tokens
    return last if grew or before.boot_id != last.boot_id else None


def of_class(load: FleetLoad, kind: ClassLoad) -> FleetLoad:
    """The load with the latencies of one class; prefill and gauges stay those of all."""
    return replace(load, view=replace(load.view, ttft=kind.ttft, queue_wait=kind.queue_wait, itl=kind.itl))


def deciding_view(load: FleetLoad, verdict: Verdict) -> LoadView:
    """The view of a window with what decides, in a fleet of several classes and in one with a deadline.

    Batch work that waits, and the KV cache that it holds, count only when its own objective is missed: until then it fills
    slack, as it should. Its part of the cache is taken to be its part of the running sequences. With a deadline they never
    count, and nor do the first tokens of a fleet that has nothing else.
    """
    view = load.view if verdict.judgement is None else verdict.judgement.view(load.view, load.classes)
    if verdict.only_deferred:
        view = without_first_tokens(view)
    if verdict.counts_batch or not verdict.apart:
        return view
    online = 1 - min(1.0, load.running_batch / view.running) if view.running else 1.0
    return replace(view, waiting=max(0.0, view.waiting - load.waiting_batch), kv_usage=view.kv_usage * online)


def without_first_tokens(view: LoadView) -> LoadView:
    """The view of a fleet whose first tokens are judged by nobody."""
    return replace(view, ttft=Latency(), queue_wait=Latency())


def _classes(series: Sequence[EngineSample]) -> Mapping[str, ClassCounts] | None:
    """What each class counted over the samples of one engine; None for a contradiction."""
    parts: list[dict[str, ClassCounts]] = []
    for first, last, rebooted in _boots(series):
        grown: dict[str, ClassCounts] = {}
        for kind, newer in last.classes.items():
            older = ClassSample() if rebooted else first.classes.get(kind, ClassSample())
            differences = [histogram.subtract(getattr(newer, name), getattr(older, name)) for name in CLASS_HISTOGRAMS]
            if any(difference is None for difference in differences):
                return None
            grown[kind] = ClassCounts(*(difference or EMPTY for difference in differences))
        parts.append(grown)
    return parts[0] if len(parts) == 1 else _merged(parts)


def _merged(parts: Iterable[Mapping[str, ClassCounts]]) -> dict[str, ClassCounts]:
    found = list(parts)
    return {
        kind: ClassCounts(
            *(histogram.merge(getattr(part[kind], name) for part in found if kind in part) for name in CLASS_HISTOGRAMS)
        )
        for kind in sorted({kind for part in found for kind in part})
    }


def _boots(series: Sequence[EngineSample]) -> Iterable[tuple[EngineSample, EngineSample, bool]]:
    """First and last sample of each run of one boot id, and whether that boot began inside the series."""
    first, rebooted = series[0], False
    for one, other in pairwise(series):
        if one.boot_id != other.boot_id:
            yield first, one, rebooted
            first, rebooted = other, True
    yield first, series[-1], rebooted


def _arrivals(counts: Mapping[str, int]) -> int:
    """As `EngineSample.arrivals`; one that turned out invalid after it was seen to come is no contradiction."""
    return max(0, counts["requests_received"] - counts["requests_rejected"] + counts["queue_full"])


def _sane(sample: EngineSample) -> bool:
    return (
        sample.num_running >= 0
        and sample.num_waiting >= 0
        and math.isfinite(sample.kv_usage)
        and 0 <= sample.kv_usage <= 1.01
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
