"""A pod's JSON text into what decisions need of it: parsed once, and kept while the text stays the same.

Remembering by the whole text needs no trust in a resource version: equal texts give equal views, as parsing looks at
nothing else. What is kept are the pods of the last pass, so a fleet costs the operator one copy of their text, some 4 KB a
pod, and forgets a pod with the pass that no longer finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from headway_operator.core.observed import ContainerState, PodView
from headway_operator.core.plan import Json, Manifest
from headway_operator.shell.kube import dict_at, list_at, text_at
from headway_operator.shell.listing import json_object

ENGINE_CONTAINER = "engine"


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod, and the uid of the object that its ownerReferences name as its controller; None without one."""

    view: PodView
    controller: str | None


@dataclass(frozen=True, slots=True)
class PodReader:
    """Reads the pods of one pass.

    Attributes:
        before: the pods of the pass before, by text.
        pods: those read so far, by text.
    """

    before: Mapping[str, SeenPod]
    pods: dict[str, SeenPod] = field(default_factory=dict)

    def __call__(self, text: str) -> SeenPod:
        """The pod of this text; ValueError when it is no JSON object."""
        pod = self.pods[text] = self.before.get(text) or _seen(json_object(text))
        return pod


def controller_of(manifest: Manifest) -> str | None:
    """The uid that an ownerReference names as the controller; the API server allows one at most."""
    for owner in list_at(manifest, "metadata", "ownerReferences"):
        if isinstance(owner, dict) and owner.get("controller") is True:
            return text_at(owner, "uid") or None
    return None


def _seen(manifest: Manifest) -> SeenPod:
    return SeenPod(pod_view(manifest), controller_of(manifest))


def pod_view(pod: Manifest) -> PodView:
    """What decisions need of a pod."""
    conditions = {
        text_at(entry, "type"): entry for entry in list_at(pod, "status", "conditions") if isinstance(entry, dict)
    }
    scheduled, readiness = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    ready = readiness.get("status") == "True"
    return PodView(
        name=text_at(pod, "metadata", "name"),
        uid=text_at(pod, "metadata", "uid"),
        labels=_texts(dict_at(pod, "metadata", "labels")),
        annotations=_texts(dict_at(pod, "metadata", "annotations")),
        phase=text_at(pod, "status", "phase"),
        ready=ready,
        ip=text_at(pod, "status", "podIP"),
        node=text_at(pod, "spec", "nodeName"),
        created=_time(text_at(pod, "metadata", "creationTimestamp")),
        deleting=bool(text_at(pod, "metadata", "deletionTimestamp")),
        image=_image(pod),
        ready_since=_time(text_at(readiness, "lastTransitionTime")) if ready else None,
        unschedulable_message=text_at(scheduled, "message") if scheduled.get("status") == "False" else "",
        volumes_ready=conditions.get("PodReadyToStartContainers", {}).get("status") != "False",
        container=_container(pod),
    )


def _image(pod: Manifest) -> str:
    for entry in list_at(pod, "spec", "containers"):
        if isinstance(entry, dict) and entry.get("name") == ENGINE_CONTAINER:
            return text_at(entry, "image")
    return ""


def _container(pod: Manifest) -> ContainerState | None:
    for entry in list_at(pod, "status", "containerStatuses"):
        if isinstance(entry, dict) and entry.get("name") == ENGINE_CONTAINER:
            waiting = dict_at(entry, "state", "waiting")
            # While the container waits for its restart the last termination tells why it ended.
            ended = dict_at(entry, "state", "terminated") or dict_at(entry, "lastState", "terminated")
            return ContainerState(
                ready=entry.get("ready") is True,
                restart_count=_number(entry.get("restartCount")),
                waiting_reason=text_at(waiting, "reason"),
                waiting_message=text_at(waiting, "message"),
                terminated_reason=text_at(ended, "reason"),
                terminated_message=text_at(ended, "message"),
                terminated_exit_code=_number(ended.get("exitCode")),
            )
    return None


def _texts(values: Mapping[str, Json]) -> dict[str, str]:
    return {key: value for key, value in values.items() if isinstance(value, str)}


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
