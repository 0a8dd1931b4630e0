"""Prometheus metrics, made from the engine's statistics snapshot when they are scraped: nothing is counted twice.

Names follow the conventions of LLM servers (`num_requests_running`, `time_to_first_token_seconds`, ...) with the prefix
`headway_engine_`. The dense log buckets of the snapshot are summed into the fewer bounds that dashboards use; a value is
counted under a bound when its bucket ends at or below it, which moves it by at most one bucket (10 %).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headway_engine.core.histogram import GROWTH, SMALLEST_MS, Histogram
from headway_engine.core.limits import RuntimeConfigState
from headway_engine.core.metrics import ClassSnapshot
from headway_engine.core.request import Priority
from headway_engine.runtime.stats import StatsSnapshot

PREFIX = "headway_engine_"
_FIRST_TOKEN_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 5.0),
    *(7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
_TOKEN_BOUNDS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0),
)


class StatsCollector(Collector):
    """Renders one snapshot per scrape."""

    def __init__(self, snapshot: Callable[[], StatsSnapshot | None], model: str) -> None:
        self._snapshot = snapshot
        self._model = model

    def collect(self) -> Iterable[Metric]:
        """The families of one scrape; none before the model is loaded."""
        stats = self._snapshot()
        if stats is None:
            return
        for metric in _families(stats):
            for index, sample in enumerate(metric.samples):
                metric.samples[index] = sample._replace(labels={"model_name": self._model, **sample.labels})
            yield metric


def renderer(snapshot: Callable[[], StatsSnapshot | None], model: str) -> Callable[[], bytes]:
    """What `/metrics` answers: the engine's families and those of the process."""
    registry = CollectorRegistry()
    registry.register(StatsCollector(snapshot, model))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def cumulative_buckets(histogram: Histogram, bounds_s: Iterable[float]) -> list[tuple[str, float]]:
    """Prometheus buckets (`le`, cumulative count), `+Inf` included."""
    result: list[tuple[str, float]] = []
    seen, index = 0, 0
    for bound_s in bounds_s:
        while index < len(histogram.buckets) and SMALLEST_MS * GROWTH ** (index + 1) <= bound_s * 1000:
            seen += histogram.buckets[index]
            index += 1
        result.append((str(bound_s), float(seen)))
    return [*result, ("+Inf", float(histogram.count))]


def _families(stats: StatsSnapshot) -> Iterator[Metric]:
    loads = stats.loads
    yield _gauge("num_requests_running", "Requests being computed", loads.num_running)
    yield _gauge("num_requests_waiting", "Requests that wait for their first step", loads.num_waiting)
    yield _gauge("num_batch_requests_waiting", "Of those, requests of the batch class", loads.num_waiting_batch)
    yield _gauge(
        "batch_prompt_tokens_waiting",
        "Prompt tokens of the batch class yet to compute",
        loads.waiting_batch_prompt_tokens,
    )
    yield _gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", loads.token_usage)
    yield _gauge("generation_throughput_tokens_per_second", "Output tokens/s of the last 5 s", loads.gen_throughput)
    yield _gauge("draining", "1 while the engine refuses new requests", float(loads.draining))
    yield _histogram(
        "time_to_first_token_seconds", "Arrival to first token, queue included", stats.ttft, _FIRST_TOKEN_BOUNDS_S
    )
    yield _histogram(
        "request_queue_time_seconds", "Arrival to first prefill step", stats.queue_wait, _FIRST_TOKEN_BOUNDS_S
    )
    yield _histogram(
        "request_prefill_time_seconds", "First prefill step to first token", stats.prefill, _FIRST_TOKEN_BOUNDS_S
    )
    yield _histogram("inter_token_latency_seconds", "Gap between two tokens of a request", stats.itl, _TOKEN_BOUNDS_S)
    yield _histogram("e2e_request_latency_seconds", "Arrival to last token", stats.e2e, _FIRST_TOKEN_BOUNDS_S)
    yield _histogram("step_time_seconds", "Duration of an engine step", stats.step, _TOKEN_BOUNDS_S)
    yield _counter("prompt_tokens", "Prompt tokens admitted", {"": stats.prompt_tokens})
    yield _counter("prefix_cache_hits", "Prompt tokens found in the prefix cache", {"": stats.cached_prompt_tokens})
    yield _counter("generation_tokens", "Tokens generated", {"": stats.generation_tokens})
    yield _counter("requests_received", "Requests received", {"": stats.requests_received})
    yield _counter("request_success", "Requests that ended, by reason", stats.requests_finished, "finished_reason")
    yield _counter("admission_rejections", "Requests refused, by reason", stats.requests_rejected, "reason")
    yield _counter("preemptions", "Requests put back to the queue to free memory", {"": stats.preemptions})
    yield _counter("steps", "Engine steps", {"": stats.steps})
    yield from _classes(stats.classes)
    yield from _limits(stats.config)


def _classes(classes: Mapping[Priority, ClassSnapshot]) -> Iterator[Metric]:
    """The latencies of each workload class apart; the families above have all of them together."""
    parts = (
        (
            "class_time_to_first_token_seconds",
            "Arrival to first token, by workload class",
            "ttft",
            _FIRST_TOKEN_BOUNDS_S,
        ),
        (
            "class_request_queue_time_seconds",
            "Arrival to first prefill step, by class",
            "queue_wait",
            _FIRST_TOKEN_BOUNDS_S,
        ),
        ("class_inter_token_latency_seconds", "Gap between two tokens of a request, by class", "itl", _TOKEN_BOUNDS_S),
    )
    for name, text, part, bounds_s in parts:
        family = HistogramMetricFamily(PREFIX + name, text, labels=["workload_class"])
        for kind, one in classes.items():
            histogram: Histogram = getattr(one, part)
            buckets = cumulative_buckets(histogram, bounds_s)
            family.add_metric([kind.name.lower()], buckets, histogram.sum_ms / 1000)
        yield family
    finished = {kind.name.lower(): one.finished for kind, one in classes.items()}
    yield _counter("class_requests_finished", "Requests that ended, by workload class", finished, "workload_class")
    late = {kind.name.lower(): one.late for kind, one in classes.items()}
    yield _counter("class_requests_late", "Of those, after the deadline of their class", late, "workload_class")
    refused = {kind.name.lower(): one.refused for kind, one in classes.items()}
    yield _counter("class_requests_refused", "Requests that found the queue full, by class", refused, "workload_class")


def _limits(config: RuntimeConfigState) -> Iterator[Metric]:
    for kind, limits in (("limit", config.effective), ("baseline_limit", config.baseline)):
        shown = "Live" if kind == "limit" else "Baseline"
        yield _gauge(f"{kind}_max_num_seqs", f"{shown} limit: running sequences", limits.max_num_seqs)
        yield _gauge(
            f"{kind}_max_num_batched_tokens", f"{shown} limit: tokens of one step", limits.max_num_batched_tokens
        )
        yield _gauge(f"{kind}_batch_wait_ms", f"{shown} limit: wait for company, ms", limits.batch_wait_ms)
        yield _gauge(f"{kind}_max_queued_requests", f"{shown} limit: waiting requests", limits.max_queued_requests)
        yield _gauge(
            f"{kind}_itl_target_ms", f"{shown} limit: gap that the low-tail profile aims at", limits.itl_target_ms
        )
        yield _gauge(
            f"{kind}_interactive_itl_target_ms",
            f"{shown} limit: the same for interactive streams; 0: as itl_target_ms",
            limits.interactive_itl_target_ms,
        )
        yield _gauge(
            f"{kind}_batch_itl_target_ms",
            f"{shown} limit: the same for batch streams; 0: they have none",
            limits.batch_itl_target_ms,
        )
        yield _gauge(
            f"{kind}_ttft_target_ms",
            f"{shown} limit: when a first token is due; who is late lets others go first; 0: first come, first served",
            limits.ttft_target_ms,
        )
        yield _gauge(
            f"{kind}_interactive_ttft_target_ms",
            f"{shown} limit: the same for interactive requests; 0: as ttft_target_ms",
            limits.interactive_ttft_target_ms,
        )
        yield _gauge(
            f"{kind}_max_queued_batch_requests",
            f"{shown} limit: waiting requests at which batch work is refused; 0: as max_queued_requests",
            limits.max_queued_batch_requests,
        )
        yield _gauge(
            f"{kind}_batch_deadline_ms",
            f"{shown} limit: by when a batch request should end, from its arrival; 0: there is no deadline",
            limits.batch_deadline_ms,
        )
        yield _gauge(
            f"{kind}_reserved_percent",
            f"{shown} limit: slots and KV blocks that batch work leaves free, percent",
            limits.reserved_percent,
        )
        rules = GaugeMetricFamily(
            f"{PREFIX}{kind}_rules", f"{shown} batching mode and profile; always 1", labels=["batching_mode", "profile"]
        )
        rules.add_metric([limits.batching_mode, limits.profile], 1.0)
        yield rules
    yield _gauge("runtime_config_revision", "Revision of the live limits", config.revision)
    yield _gauge("runtime_config_lease_seconds", "Time left of the lease on the limits", config.lease_remaining_s)


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text)
    family.add_metric([], value)
    return family


def _counter(name: str, text: str, values: Mapping[str, int], label: str = "") -> Metric:
    """A counter, one sample per value of `label`; without a label `values` holds one entry."""
    family = CounterMetricFamily(PREFIX + name, text, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram, bounds_s: Iterable[float]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric([], cumulative_buckets(histogram, bounds_s), histogram.sum_ms / 1000)
    return family
