"""The windows of engines to the load of their fleet, and to what decisions look at. Engines that do not report are left out.

Every engine of a fleet does the same work, so the windows of a fleet with more than `POOLED` engines are those of `POOLED` of
them, evenly spread over the names: percentiles are theirs, sums are raised by the share. Whether an engine answers is looked
at for each.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headway_operator.core import histogram
from headway_operator.core.histogram import Histogram
from headway_operator.core.objectives import ClassCounts, ClassLoad, Verdict, latency
from headway_operator.core.observed import EngineSample
from headway_operator.core.window import COUNTERS, HISTOGRAMS, PodWindow, answer, arrived, merged, pod_window
from headway_planner.model import Latency, LoadView
from headway_planner.scale import QUEUE_SEEN_S

POOLED = 64  # engines whose windows are taken; a percentile of their requests errs less than a histogram bucket


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


def fleet_load(
    serving: Sequence[str],
    samples: Mapping[str, tuple[EngineSample, ...]],
    now_s: float,
    window_s: float,
    percentiles: tuple[float, float] = (0.95, 0.95),
) -> FleetLoad:
    """The serving pods pooled, all classes together. `percentiles`: of the times to first token and between tokens."""
    latest = {name: last for name in serving if (last := answer(samples.get(name, ()), now_s)) is not None}
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


@dataclass(frozen=True, slots=True)
class _Pooled:
    """The windows together; counts are raised by `share`, the engines that each window stands for."""

    windows: Sequence[PodWindow]
    share: float
    counts: Mapping[str, int]
    histograms: Mapping[str, Histogram]


def _windows(
    names: Collection[str], samples: Mapping[str, tuple[EngineSample, ...]], span: _Span
) -> dict[str, PodWindow | None]:
    return {name: pod_window(samples[name], span.now_s, span.window_s) for name in _spread(names)}


def _load(windows: Mapping[str, PodWindow | None], engines: _Engines, span: _Span) -> FleetLoad:
    found = [window for window in windows.values() if window is not None]
    share = len(engines.latest) / len(found) if found else 1.0
    pooled = _Pooled(
        windows=found,
        share=share,
        counts={name: round(share * sum(window.counts[name] for window in found)) for name in COUNTERS},
        histograms={name: histogram.merge(window.histograms[name] for window in found) for name in HISTOGRAMS},
    )
    counts = pooled.counts
    speeds = (window.counts["generation_tokens"] / window.span_s for window in found if window.span_s > 0)
    return FleetLoad(
        view=_view(pooled, engines, span.percentiles),
        tokens_per_s=share * sum(speeds),
        queue_depth=engines.queue_depth,
        last_sample_s=engines.last_sample_s,
        silent=engines.silent,
        preemptions=counts["preemptions"],
        queue_full=counts["queue_full"],
        step=latency(pooled.histograms["step"], span.percentiles[1]),
        prompt_tokens=counts["prompt_tokens"],
        busiest_mean=max((window.running for window in found), default=0.0),
        classes=merged(window.classes for window in found),
        waiting_batch=share * sum(window.waiting_batch for window in _seen(found)),
        running_batch=share * sum(window.running_batch for window in found),
        latest=engines.latest,
        share=share,
    )


def _view(pooled: _Pooled, engines: _Engines, percentiles: tuple[float, float]) -> LoadView:
    found, share, counts, histograms = pooled.windows, pooled.share, pooled.counts, pooled.histograms
    computed = counts["prompt_tokens"] + counts["generation_tokens"]
    active = any(window.active for window in found)
    return LoadView(
        serving=len(engines.latest) + len(engines.silent),
        reporting=len(engines.latest),
        quiet=not active and not engines.silent,
        span_s=max((window.span_s for window in found), default=0.0),
        waiting=share * sum(window.waiting for window in _seen(found)),
        emptied=engines.queue_depth == 0 and not engines.silent,
        running=share * sum(window.running for window in found),
        busiest_running=max((max(window.running, window.running_now) for window in found), default=0.0),
        kv_usage=max((window.kv_usage for window in found), default=0.0),
        arrivals=arrived(counts),
        finished=counts["requests_finished"],
        prompt_share=counts["prompt_tokens"] / computed if computed else 0.0,
        active=active,
        ttft=latency(histograms["ttft"], percentiles[0]),
        queue_wait=latency(histograms["queue_wait"], percentiles[0]),
        prefill=latency(histograms["prefill"], percentiles[0]),
        itl=latency(histograms["itl"], percentiles[1]),
    )


def _seen(found: Sequence[PodWindow]) -> Sequence[PodWindow]:
    """The windows whose queues count: a new engine's few samples are a moment, those of the others a mean over time.

    Where every engine is new, all of them count, and whoever decides looks at the span.
    """
    least_s = min(QUEUE_SEEN_S, max((window.span_s for window in found), default=0.0))
    return [window for window in found if window.span_s >= least_s]


def _spread(names: Collection[str]) -> Collection[str]:
    """At most `POOLED` of the names, evenly spread."""
    if len(names) <= POOLED:
        return names
    ordered = list(names)
    return [ordered[index * len(ordered) // POOLED] for index in range(POOLED)]


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
