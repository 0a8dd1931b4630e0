"""Prometheus metrics of the gateway."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway_gateway.engines import Engines

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)


class _Pool(Collector):
    """What the engines' pool counts itself."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """The families."""
        for name, text, count in (
            (
                "requests_moved",
                "Batch requests that waited in an engine and were moved to another one with room",
                self._engines.moved,
            ),
            ("prompt_tokens", "Tokens of the prompts of answers that ended", self._engines.prompts.total),
            ("cached_prompt_tokens", "Of these, found in an engine's prefix cache", self._engines.prompts.cached),
            (
                "cached_prompt_tokens_expected",
                "Of these, expected there when the engine was chosen",
                self._engines.prompts.expected,
            ),
        ):
            yield CounterMetricFamily(f"headway_gateway_{name}", text, value=count)
        text = "What was sent to an engine and has not ended"
        in_flight = GaugeMetricFamily("headway_gateway_engine_requests_in_flight", text, labels=("engine",))
        text = "Prompt tokens sent to an engine, of requests without a token yet and without what is expected in its prefix cache"
        unanswered = GaugeMetricFamily("headway_gateway_engine_unanswered_prompt_tokens", text, labels=("engine",))
        for address, engine in self._engines.members():
            in_flight.add_metric((address,), engine.in_flight)
            unanswered.add_metric((address,), sum(one.tokens for one in engine.unanswered.values()))
        yield in_flight
        yield unanswered


class Metrics:
    """The families of one gateway."""

    def __init__(self, engines: Engines) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Pool(engines))
        self.requests = Counter(
            "headway_gateway_requests",
            "Requests by route and HTTP status",
            ("route", "status"),
            registry=self._registry,
        )
        self.in_flight = Gauge("headway_gateway_requests_in_flight", "Requests being answered", registry=self._registry)
        self.first_token = Histogram(
            "headway_gateway_time_to_first_token_seconds",
            "Arrival to the first text of an answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.class_first_token = Histogram(
            "headway_gateway_class_time_to_first_token_seconds",
            "The same by the class that the request names; default: it names none",
            ("workload_class",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def answered(self, workload_class: str, first_token_s: float) -> None:
        """The first text of an answer came."""
        self.first_token.observe(first_token_s)
        self.class_first_token.labels(workload_class).observe(first_token_s)

    def render(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self._registry)
