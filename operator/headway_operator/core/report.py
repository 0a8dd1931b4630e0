"""What a pass writes about a fleet: its status, and the Events for what changed in it."""

from headway_operator.api.conditions import Finding, set_conditions
from headway_operator.api.v1alpha1 import LLMDeploymentStatus
from headway_operator.core import events, pods, status
from headway_operator.core.observed import Observed
from headway_operator.core.plan import Action, WriteStatus


def changes(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> list[Action]:
    """The status if it differs, with the Events for what changed in it."""
    if not status.differs(before, after):
        return []
    told = events.events(before, after)
    reason = "; ".join(event.event_reason for event in told) or "observations"
    return [WriteStatus(status.to_json(after), reason), *told]


def findings(observed: Observed, before: LLMDeploymentStatus, found: tuple[Finding, ...]) -> list[Action]:
    """These findings, and the pods that are there; whatever else the status says stays."""
    live = [pod for pod in observed.pods if pods.live(pod)]
    update = {
        "observed_generation": observed.generation,
        "replicas": len(live),
        "ready_replicas": sum(pod.ready for pod in live),
        "conditions": set_conditions(status.own_conditions(before), found, observed.generation, observed.now),
    }
    after = before.model_copy(update=update)
    return changes(before, after)
