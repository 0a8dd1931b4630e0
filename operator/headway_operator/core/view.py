"""A parsed fleet with everything a pass computes from it once: what `status.py` reports and `decide.py` acts on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from headway_operator.api.v1alpha1 import LLMDeployment, ScheduleStatus
from headway_operator.core import pods, rivals, tuning
from headway_operator.core.deadlines import Outlook
from headway_operator.core.load import FleetLoad
from headway_operator.core.memory import LoopMemory
from headway_operator.core.objectives import Verdict
from headway_operator.core.observed import EngineSample, Observed, PodView
from headway_operator.core.rollout import Steps
from headway_operator.core.scaling import Replicas
from headway_operator.core.tuning import Limits
from headway_operator.core.validation import Refused


@dataclass(frozen=True)  # no slots: cached_property needs a dict
class Situation:
    """One pass in the making.

    Attributes:
        observed: the snapshot.
        fleet: its LLMDeployment, parsed.
        live: pods that count as replicas.
        serving: those of them that take requests.
        revision: the revision that pods should have.
        samples: fresh samples by pod name.
        load: the window of the objective, for the status.
        replicas: the decision about the count.
        limits: the decision about the limits.
        steps: the next step for the pods.
        schedule: the open windows; `fleet` holds their overrides.
        memory: what the control loop leaves to the next pass.
        verdict: whose figures decide, over the same window.
        outlook: of the work with a deadline; None where there is none.
        refused: why the user's spec is not the one in `fleet`, or whose object stands in the way of a child.
    """

    observed: Observed
    fleet: LLMDeployment
    live: tuple[PodView, ...]
    serving: tuple[PodView, ...]
    revision: str
    samples: Mapping[str, EngineSample]
    load: FleetLoad
    replicas: Replicas
    limits: Limits
    steps: Steps
    schedule: ScheduleStatus | None
    memory: LoopMemory
    verdict: Verdict
    outlook: Outlook | None = None
    refused: Refused | None = None

    @cached_property
    def confirmed(self) -> frozenset[str]:
        """Names of the serving pods whose engine confirms the limits."""
        return frozenset(tuning.applied(self.limits, self.serving, self.samples))

    @cached_property
    def updated(self) -> tuple[PodView, ...]:
        """Live pods of the current revision."""
        return tuple(pod for pod in self.live if pods.revision_of(pod) == self.revision)

    @cached_property
    def draining(self) -> tuple[PodView, ...]:
        """Pods that finish their streams."""
        return tuple(pod for pod in self.observed.pods if pods.draining(pod) and not pod.deleting)

    @cached_property
    def contested(self) -> frozenset[str]:
        """Pods whose limits somebody else keeps changing: they are left to them."""
        known = rivals.known_limits(self.fleet, self.limits.effective, self.limits.baseline)
        return rivals.contested(self.observed, known)

    @property
    def earlier(self) -> int | None:
        """The generation of the spec that runs while the newest one is refused; None when the newest one runs."""
        runs = self.fleet.metadata.generation
        return runs if runs != self.observed.generation else None

    @property
    def watched_s(self) -> float:
        """How long this process has looked at the fleet."""
        return self.observed.monotonic_s - self.memory.began_s

    @property
    def rolling(self) -> bool:
        """Pods of an old revision are left."""
        return len(self.updated) < len(self.live)
