"""What alerts need of a fleet: its objective beside what was observed, its queue beside the bound, its conditions.

Everything is read from the LLMDeployment, so the series say what its status says. A figure that the status lost (no
traffic, no objective) loses its series in the same pass: an alert must not burn on the last number of a quiet fleet. Those that
stay are never gone in between: another thread answers scrapes, at any moment of a pass.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge

from headway_operator.api.spec_slo import DEFAULT_ITL_TARGET_MS, DEFAULT_TTFT_TARGET_MS, WorkloadClass
from headway_operator.core.plan import Json, Manifest
from headway_operator.shell.kube import FleetKey, at

_FLEET = ("namespace", "fleet")
_CLASSED = (*_FLEET, "workload_class")
_STATUS_VALUE = {"True": 1.0, "False": 0.0}
_Series = tuple[Gauge, tuple[str, ...]]  # and the values of its labels
UNKNOWN = -1.0


def _queue_bound(limits: Mapping[str, Json]) -> int | None:
    """Requests that may wait in one engine; where batch work has a bound of its own, it is the one for all of them."""
    bounds = [limits.get("maxQueuedRequests"), limits.get("maxQueuedBatchRequests")]
    return max((bound for bound in bounds if isinstance(bound, int)), default=None)


class FleetSeries:
    """Gauges of fleets, in the operator's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(f"headway_fleet_{name}", text, labels, registry=registry)

        self._ttft = gauge("ttft_seconds", "Observed time to first token at the objective's percentile.", _CLASSED)
        self._ttft_target = gauge("ttft_target_seconds", "Objective for it.", _CLASSED)
        self._itl = gauge("inter_token_latency_seconds", "Observed time between tokens at its percentile.", _CLASSED)
        self._itl_target = gauge("inter_token_latency_target_seconds", "Objective for it.", _CLASSED)
        self._waiting = gauge("waiting_requests", "Requests that wait in all engines.", _FLEET)
        self._queue_limit = gauge("queue_limit_requests", "Requests that may wait in all ready engines.", _FLEET)
        self._deadline = {
            field: gauge(f"deadline_{name}", text, _FLEET)
            for field, name, text in (
                ("seconds", "seconds", "In which batch work should be finished, from its arrival."),
                ("waitingRequests", "waiting_requests", "Requests with a deadline that are not finished."),
                ("doneInSeconds", "done_in_seconds", "In which they are done by the replicas that serve."),
                ("spareSeconds", "spare_seconds", "Time between the end of the tightest of them and its deadline."),
                ("neededReplicas", "needed_replicas", "Replicas that the deadline asks for, with the other classes."),
                (
                    "finishedCount",
                    "finished_requests",
                    "Requests with a deadline that ended in the objective's window.",
                ),
                ("lateCount", "late_requests", "Of those, requests that ended after their deadline."),
            )
        }
        self._condition = gauge(
            "condition", "A condition: 1 True, 0 False, -1 Unknown.", (*_FLEET, "condition", "reason")
        )
        self._shown: dict[FleetKey, frozenset[_Series]] = {}

    def show(self, key: FleetKey, manifest: Manifest) -> None:
        """Replace the fleet's series by what the manifest says."""
        values = dict(self._values(key, manifest))
        for (gauge, labels), value in values.items():
            gauge.labels(*labels).set(value)
        for gauge, labels in self._shown.get(key, frozenset()) - values.keys():
            gauge.remove(*labels)
        self._shown[key] = frozenset(values)

    def forget(self, key: FleetKey) -> None:
        """Remove the fleet's series."""
        for gauge, labels in self._shown.pop(key, frozenset()):
            gauge.remove(*labels)

    def _values(self, key: FleetKey, manifest: Manifest) -> Iterator[tuple[_Series, float]]:
        fleet = (key.namespace, key.name)
        yield from self._objective(key, manifest)
        waiting = at(manifest, "status", "slo", "queueDepth")
        if isinstance(waiting, int):
            yield (self._waiting, fleet), waiting
        for field, gauge in self._deadline.items():
            value = at(manifest, "status", "slo", "deadline", field)
            if isinstance(value, int):
                yield (gauge, fleet), value
        ready, each = at(manifest, "status", "readyReplicas"), at(manifest, "status", "tuning", "effective")
        bound = _queue_bound(each) if isinstance(each, dict) else None
        if isinstance(ready, int) and isinstance(bound, int):
            yield (self._queue_limit, fleet), ready * bound
        conditions = at(manifest, "status", "conditions")
        for one in conditions if isinstance(conditions, list) else []:
            if isinstance(one, dict):
                labels = (*fleet, str(one.get("type")), str(one.get("reason")))
                yield (self._condition, labels), _STATUS_VALUE.get(str(one.get("status")), UNKNOWN)

    def _objective(self, key: FleetKey, manifest: Manifest) -> Iterator[tuple[_Series, float]]:
        several = at(manifest, "status", "slo", "classes")
        if isinstance(several, list) and several:
            for one in several:
                if isinstance(one, dict):
                    yield from self._class(key, one)
            return
        name = at(manifest, "spec", "slo", "workloadClass")
        if not isinstance(name, str) or name not in set(WorkloadClass):
            return
        kind = WorkloadClass(name)
        ttft = at(manifest, "spec", "slo", "ttft", "targetMilliseconds")
        itl = at(manifest, "spec", "slo", "interTokenLatency", "targetMilliseconds")
        deferred = at(manifest, "spec", "slo", "deadlineSeconds") is not None
        observed = at(manifest, "status", "slo")
        yield from self._class(
            key,
            {
                **(observed if isinstance(observed, dict) else {}),
                "workloadClass": name,
                "ttftTargetMilliseconds": None if deferred else ttft or DEFAULT_TTFT_TARGET_MS[kind],
                "interTokenLatencyTargetMilliseconds": itl or DEFAULT_ITL_TARGET_MS[kind],
            },
        )

    def _class(self, key: FleetKey, one: Mapping[str, Json]) -> Iterator[tuple[_Series, float]]:
        """The figures of one class, as `status.slo.classes` has them."""
        labels = (key.namespace, key.name, str(one.get("workloadClass")))
        for gauge, field in (
            (self._ttft_target, "ttftTargetMilliseconds"),
            (self._ttft, "ttftObservedMilliseconds"),
            (self._itl_target, "interTokenLatencyTargetMilliseconds"),
            (self._itl, "interTokenLatencyObservedMilliseconds"),
        ):
            value = one.get(field)
            if isinstance(value, int):
                yield (gauge, labels), value / 1000
