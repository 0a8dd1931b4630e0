"""Why a pod does not become ready: the cause in words, and the cure.

Kubernetes knows the cause, in one of a dozen places. This reads them in the order of what a user can do about them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from headway_operator.api.conditions import Reason
from headway_operator.api.v1alpha1 import GPU_RESOURCE
from headway_operator.core import pods
from headway_operator.core.observed import ContainerState, PodView

EXIT_SETTINGS = 2  # the engine's exit codes, see ARCHITECTURE.md
EXIT_MODEL = 3
IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
MOUNT_GRACE_S = 8.0  # mounts and the pod's network take a second or two, rarely more
MESSAGE_LENGTH = 400


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What keeps a pod from serving."""

    reason: Reason
    message: str


def diagnose(pod: PodView, now: datetime) -> Diagnosis | None:
    """The cause and cure for one pod; None when it serves or is merely starting."""
    if pod.ready or not pods.live(pod):
        return None
    if pods.blocked(pod):
        return _unschedulable(pod)
    if pod.node and not pod.volumes_ready and pods.age_s(pod, now) >= MOUNT_GRACE_S:
        return Diagnosis(
            Reason.VOLUME_UNAVAILABLE,
            f"pod {pod.name} waits for its volumes since {MOUNT_GRACE_S:.0f} s and more: check that what spec.model.source "
            f"names is there on node {pod.node}; `kubectl describe pod {pod.name}` has the node's own words",
        )
    if pod.lost_since is not None:
        return Diagnosis(
            Reason.ENGINE_STALLED,
            f"pod {pod.name} served and is not ready since {pod.lost_since:%H:%M:%SZ}: its engine fails its readiness "
            f"probe. Its liveness probe restarts it when that goes on for a minute; look at `kubectl logs {pod.name}` and at node {pod.node}",
        )
    return _container(pod, pod.container) if pod.container is not None else None


def worst(candidates: Sequence[PodView], now: datetime) -> Diagnosis | None:
    """The diagnosis of the first pod that has one, and how many more pods share it."""
    ordered = sorted((pod for pod in candidates if not pod.ready), key=lambda pod: pod.name)
    found = [one for pod in ordered if (one := diagnose(pod, now)) is not None]
    if not found:
        return None
    alike = sum(1 for one in found if one.reason is found[0].reason) - 1
    more = f" (and {alike} more)" if alike else ""
    return Diagnosis(found[0].reason, found[0].message + more)


def _unschedulable(pod: PodView) -> Diagnosis:
    said = _short(pod.unschedulable_message)
    if f"Insufficient {GPU_RESOURCE}" in said:
        return Diagnosis(
            Reason.INSUFFICIENT_GPUS,
            f"pod {pod.name} finds no free GPU: add a GPU node, run fewer replicas, or set spec.engine.device to cpu. The scheduler: {said}",
        )
    if "persistentvolumeclaim" in said.lower():
        return Diagnosis(
            Reason.VOLUME_UNAVAILABLE,
            f"pod {pod.name} has no model volume: create the claim of spec.model.source.pvc. The scheduler: {said}",
        )
    return Diagnosis(
        Reason.UNSCHEDULABLE,
        f"no node takes pod {pod.name}: check spec.engine.resources and the template's node selection. "
        f"The scheduler: {said}",
    )


def _container(pod: PodView, state: ContainerState) -> Diagnosis | None:
    waiting, said = state.waiting_reason, _short(state.waiting_message)
    if waiting in IMAGE_REASONS:
        return Diagnosis(
            Reason.IMAGE_UNAVAILABLE,
            f"pod {pod.name} cannot get its image: check spec.engine.image, the registry and the pull secret. "
            f"{waiting}: {said}",
        )
    if waiting == "CreateContainerConfigError":
        return Diagnosis(
            Reason.VOLUME_UNAVAILABLE,
            f"pod {pod.name} refers to something that is missing: check spec.template and the model source. {said}",
        )
    if waiting in ("CreateContainerError", "RunContainerError"):
        return Diagnosis(Reason.ENGINE_CRASHED, f"pod {pod.name} cannot start its container: {said}")
    return _ended(pod, state)


def _ended(pod: PodView, state: ContainerState) -> Diagnosis | None:
    told = _short(state.terminated_message) or "no message was left; see its logs"
    code = state.terminated_exit_code
    if state.terminated_reason == "OOMKilled":
        return Diagnosis(
            Reason.OUT_OF_MEMORY,
            f"pod {pod.name} was killed at its memory limit: raise spec.engine.resources.limits.memory or lower "
            "spec.engine.capacity.kvCacheMemoryMebibytes",
        )
    if code == EXIT_MODEL:
        return Diagnosis(
            Reason.MODEL_UNUSABLE,
            f"pod {pod.name} cannot load the model: {told}. Correct spec.model.source or its files",
        )
    if code == EXIT_SETTINGS:
        return Diagnosis(Reason.ENGINE_REFUSED_SETTINGS, f"the engine of pod {pod.name} refuses its settings: {told}")
    if code != 0:
        text = f"the engine of pod {pod.name} ended with code {code}, {state.restart_count} restarts: {told}"
        return Diagnosis(Reason.ENGINE_CRASHED, text)
    return None


def _short(text: str) -> str:
    clean = " ".join(text.split()).rstrip(".")
    return clean if len(clean) <= MESSAGE_LENGTH else clean[: MESSAGE_LENGTH - 3] + "..."
