"""A fleet in memory, and a shell around it."""

from dataclasses import dataclass, field

import simple_decide
from fake_kube import FakeKube

from headway_operator.core import names
from headway_operator.core.observed import Defaults, PodView
from headway_operator.core.plan import Json, LimitsPatch
from headway_operator.shell.engines import EngineError, Engines
from headway_operator.shell.events import EventRecorder
from headway_operator.shell.execute import Executor
from headway_operator.shell.kube import FleetKey
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.reconcile import Decide, Reconciler, Shell

KEY = FleetKey("apps", "demo")


@dataclass
class FakeControl:
    """Engines that note what they are told."""

    told: list[tuple[str, str]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)  # pods, whether they answered or not

    async def set_limits(self, pod: PodView, limits: LimitsPatch, lease_s: int, expected_revision: int) -> None:
        self._tell("limits", pod)

    async def start_drain(self, pod: PodView, deadline_s: int) -> None:
        self._tell("drain", pod)

    def _tell(self, what: str, pod: PodView) -> None:
        self.asked.append(pod.name)
        if pod.name in self.silent:
            raise EngineError("UNAVAILABLE", "no route")
        self.told.append((what, pod.name))


def fleet_manifest(key: FleetKey = KEY) -> dict[str, Json]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": f"uid-{key.name}"},
        "spec": {"slo": {"windowSeconds": 30}},
    }


def make_reconciler(
    kube: FakeKube, control: FakeControl, decide: Decide = simple_decide.decide, metrics: Metrics | None = None
) -> Reconciler:
    """A new process: nothing is remembered from the one before."""
    events = EventRecorder(kube, "op-1", lambda: 0.0)
    shell = Shell(
        kube=kube,
        engines=Engines(50052, 0.8),
        events=events,
        executor=Executor(kube, control, events),
        metrics=metrics or Metrics(),
        defaults=Defaults("engine:1"),
    )
    return Reconciler(shell, decide)
