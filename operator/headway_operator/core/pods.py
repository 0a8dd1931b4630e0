"""What a pod is to its fleet: live, serving, warming, blocked, draining, spent. Each word is defined here once."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

from headway_operator.core import names
from headway_operator.core.observed import EngineSample, PodView

STALE_S = 10.0  # a sample older than this says nothing about now
_SPENT = ("Failed", "Succeeded")
OVERDUE_S = 60.0  # so long after its grace a pod is still there only because no kubelet answers
UNSCHEDULABLE_GRACE_S = 10.0  # the scheduler's first verdict may be about a pod that is still going away


def draining(pod: PodView) -> bool:
    """We took it out of service; it ends when its streams have ended."""
    return names.ANNOTATION_DRAIN_STARTED in pod.annotations


def spent(pod: PodView) -> bool:
    """Evicted, lost with its node, or ended: it never runs again."""
    return pod.phase in _SPENT


def abandoned(pod: PodView, now: datetime) -> bool:
    """It is being deleted, and its node is gone: only an administrator, or the node's own end, removes the object."""
    return pod.due is not None and (now - pod.due).total_seconds() >= OVERDUE_S


def live(pod: PodView) -> bool:
    """It counts as a replica: it serves or will."""
    # Asked many times for each pod of a pass, so spelled out.
    return not (pod.deleting or names.ANNOTATION_DRAIN_STARTED in pod.annotations or pod.phase in _SPENT)


def serving(pod: PodView) -> bool:
    """It takes requests."""
    return pod.ready and live(pod)


def blocked(pod: PodView) -> bool:
    """No node takes it."""
    return not pod.node and pod.unschedulable_message != "" and live(pod)


def warming(pod: PodView) -> bool:
    """It is on its way to serve, and nothing is known to stand in its way."""
    return not pod.ready and pod.lost_since is None and live(pod) and not blocked(pod) and not failing(pod)


def failing(pod: PodView) -> bool:
    """Its engine ended or its image does not come: waiting longer does not help by itself."""
    state = pod.container
    if state is None or state.ready:
        return False
    waits = state.waiting_reason in ("", "ContainerCreating", "PodInitializing")
    return not waits or state.terminated_exit_code != 0


def revision_of(pod: PodView) -> str:
    """The revision that the pod was made for."""
    return pod.labels.get(names.LABEL_REVISION, "")


def age_s(pod: PodView, now: datetime) -> float:
    """Seconds since the pod was created."""
    return (now - pod.created).total_seconds()


def ready_s(pod: PodView, now: datetime) -> float:
    """Seconds since the pod became ready; infinite when it is not known to be."""
    return math.inf if pod.ready_since is None else (now - pod.ready_since).total_seconds()


def fresh_samples(
    samples: Mapping[str, tuple[EngineSample, ...]], pods: Iterable[PodView], now_s: float
) -> dict[str, EngineSample]:
    """The latest sample of each pod that answered lately. A pod that has ended has no streams, whatever it said last."""
    fresh: dict[str, EngineSample] = {}
    for pod in pods:
        series = samples.get(pod.name)
        if series and not spent(pod) and now_s - series[-1].taken_s <= STALE_S:
            fresh[pod.name] = series[-1]
    return fresh


def in_flight(sample: EngineSample | None) -> int | None:
    """Requests that run or wait in an engine; None when it does not answer."""
    return None if sample is None else sample.num_running + sample.num_waiting
