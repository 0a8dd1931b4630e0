"""Prometheus metrics of the gateway."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)


class _Moved(Collector):
    """What the engines' pool counts itself."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """The family."""
        text = "Batch requests that waited in an engine and were moved to another one with room"
        yield CounterMetricFamily("headway_gateway_requests_moved", text, value=self._count())


class Metrics:
    """The families of one gateway; `moved`: how many requests changed their engine so far."""

    def __init__(self, moved: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Moved(moved))
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
