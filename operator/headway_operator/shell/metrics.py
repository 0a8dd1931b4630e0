"""The operator's own Prometheus metrics, in a registry of their own.

Labels name a fleet, an action or an outcome, never a sentence: reasons carry numbers and would make a series each. A
fleet's series are removed with the fleet.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headway_operator.core.plan import Action, Emit, Manifest
from headway_operator.shell.fleet_series import FleetSeries
from headway_operator.shell.kube import FleetKey, at

_FLEET = ("namespace", "fleet")
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)

# gauge name -> where its number is in the status
_STATUS_GAUGES = {
    "headway_fleet_desired_replicas": (("scaling", "desiredReplicas"), "Replicas the operator wants."),
    "headway_fleet_replicas": (("replicas",), "Pods that exist."),
    "headway_fleet_ready_replicas": (("readyReplicas",), "Pods that are ready."),
    "headway_fleet_tuning_revision": (("tuning", "revision"), "Revision of the batch limits."),
    "headway_fleet_tuning_applied_replicas": (("tuning", "appliedReplicas"), "Pods that run these limits."),
}


class Metrics:
    """Everything the operator measures about itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Histogram(
            "headway_operator_reconcile_seconds",
            "Duration of a pass, by outcome.",
            ("outcome",),
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._actions = Counter(
            "headway_operator_actions_total", "Actions carried out, by kind.", ("action",), registry=self.registry
        )
        self._decisions = Counter(
            "headway_operator_decisions_total",
            "Changes announced by an Event, by its reason.",
            ("reason",),
            registry=self.registry,
        )
        self._requests = Histogram(
            "headway_operator_api_request_seconds",
            "Requests to the API server, by verb, kind and HTTP status (0: no answer).",
            ("verb", "kind", "status"),
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._leader = Gauge("headway_operator_leader", "1 while this replica leads.", registry=self.registry)
        self._fleets = Gauge("headway_operator_fleets", "LLMDeployments under management.", registry=self.registry)
        self._watch_restarts = Counter(
            "headway_operator_watch_restarts_total",
            "Times the event watch ended and was begun anew.",
            registry=self.registry,
        )
        self._engine_failures = Counter(
            "headway_fleet_engine_control_failures_total",
            "Control calls to engines that failed.",
            _FLEET,
            registry=self.registry,
        )
        self._sample_age = Gauge(
            "headway_fleet_sample_age_seconds",
            "Age of the stalest engine's newest statistics.",
            _FLEET,
            registry=self.registry,
        )
        self._status = {
            name: Gauge(name, text, _FLEET, registry=self.registry) for name, (_, text) in _STATUS_GAUGES.items()
        }
        self._series = FleetSeries(self.registry)
        self._leader.set(0)

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def request(self, verb: str, kind: str, status: int, seconds: float) -> None:
        """Count one request to the API server."""
        self._requests.labels(verb, kind, str(status)).observe(seconds)

    def passed(self, outcome: str, seconds: float) -> None:
        """Count one pass."""
        self._passes.labels(outcome).observe(seconds)

    def did(self, actions: Iterable[Action]) -> None:
        """Count actions that were carried out."""
        for action in actions:
            self._actions.labels(type(action).__name__).inc()
            if isinstance(action, Emit):
                self._decisions.labels(action.event_reason).inc()

    def engine_failures(self, key: FleetKey, count: int) -> None:
        """Count control calls that failed."""
        self._engine_failures.labels(key.namespace, key.name).inc(count)

    def leading(self, *, is_leader: bool) -> None:
        """Tell whether this replica leads."""
        self._leader.set(is_leader)

    def fleets(self, count: int) -> None:
        """Tell how many fleets are under management."""
        self._fleets.set(count)

    def watch_restarted(self) -> None:
        """Count an event watch that ended although nobody stopped it."""
        self._watch_restarts.inc()

    def fleet(self, key: FleetKey, manifest: Manifest, sample_age_s: float | None) -> None:
        """Show what the fleet's status says."""
        for name, (path, _) in _STATUS_GAUGES.items():
            value = at(manifest, "status", *path)
            if isinstance(value, int | float):
                self._status[name].labels(key.namespace, key.name).set(value)
        if sample_age_s is not None:
            self._sample_age.labels(key.namespace, key.name).set(sample_age_s)
        else:
            # No engine to ask: an old age would look like engines that fell silent.
            self._sample_age.remove_by_labels({"namespace": key.namespace, "fleet": key.name})
        self._series.show(key, manifest)

    def forget(self, key: FleetKey) -> None:
        """Remove the series of a fleet that is gone."""
        for metric in (self._engine_failures, self._sample_age, *self._status.values()):
            metric.remove_by_labels({"namespace": key.namespace, "fleet": key.name})
        self._series.forget(key)
