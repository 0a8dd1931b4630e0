"""A pod's JSON into what decisions need of it.

The types below name the fields that are read, in Kubernetes' own spelling (its Pod v1 API), and msgspec decodes straight into
them: what nobody reads, most of a pod, is skipped and never becomes an object. So reading thousands of pods afresh in each
pass is cheap, and nothing has to be remembered of the pass before.
"""

from datetime import UTC, datetime

import msgspec

from headway_operator.core.observed import ContainerState, PodView

ENGINE_CONTAINER = "engine"
_NEVER = datetime.fromtimestamp(0, UTC)


class _Part(msgspec.Struct, rename="camel"):
    """A part of a pod. What an API server leaves out, or writes as null, has its default."""


class Owner(_Part):
    """One ownerReference."""

    uid: str = ""
    controller: bool | None = None


class Metadata(_Part):
    """What every object of Kubernetes has: who it is, and whose."""

    name: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    owner_references: list[Owner] | None = None

    @property
    def controller(self) -> str | None:
        """The uid that an ownerReference names as the controller; the API server allows one at most."""
        return next((owner.uid for owner in self.owner_references or () if owner.controller), None) or None


class Container(_Part):
    """A container as the pod asks for it."""

    name: str = ""
    image: str = ""


class Spec(_Part):
    """What a pod asks for, and where it was placed."""

    node_name: str = ""
    containers: list[Container] | None = None


class Condition(_Part):
    """One condition."""

    type: str = ""
    status: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Ended(_Part):
    """Why a container waits, or how it ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class Running(_Part):
    """Since when a container runs."""

    started_at: datetime | None = None


class State(_Part):
    """A container's state, or its last one."""

    running: Running | None = None
    waiting: Ended | None = None
    terminated: Ended | None = None


class ContainerStatus(_Part):
    """A container as kubelet reports it."""

    name: str = ""
    ready: bool = False
    started: bool | None = None  # its startup probe has passed
    restart_count: int = 0
    state: State | None = None
    last_state: State | None = None


class Status(_Part):
    """What kubelet and the scheduler say."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None


class Pod(_Part):
    """A pod."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


def pod_view(pod: Pod) -> PodView:
    """What decisions need of a pod."""
    metadata, status = pod.metadata, pod.status
    conditions = {entry.type: entry for entry in status.conditions or ()}
    scheduled, readiness = conditions.get("PodScheduled", Condition()), conditions.get("Ready", Condition())
    ready = readiness.status == "True"
    engine = next((entry for entry in status.container_statuses or () if entry.name == ENGINE_CONTAINER), None)
    return PodView(
        name=metadata.name,
        uid=metadata.uid,
        labels=metadata.labels or {},
        annotations=metadata.annotations or {},
        phase=status.phase,
        ready=ready,
        ip=status.pod_ip,
        node=pod.spec.node_name,
        created=metadata.creation_timestamp or _NEVER,
        deleting=metadata.deletion_timestamp is not None,
        due=metadata.deletion_timestamp,
        image=next((entry.image for entry in pod.spec.containers or () if entry.name == ENGINE_CONTAINER), ""),
        ready_since=(readiness.last_transition_time or _NEVER) if ready else None,
        lost_since=_lost_since(readiness, engine) if engine is not None else None,
        unschedulable_message=scheduled.message if scheduled.status == "False" else "",
        volumes_ready=conditions.get("PodReadyToStartContainers", Condition()).status != "False",
        container=_container(engine) if engine is not None else None,
    )


def _lost_since(readiness: Condition, engine: ContainerStatus) -> datetime | None:
    """When a pod that served stopped being ready. One that has not served yet is not ready since before its engine ran."""
    began = engine.state.running.started_at if engine.state is not None and engine.state.running is not None else None
    since = readiness.last_transition_time
    if readiness.status != "False" or not engine.started or began is None or since is None or since <= began:
        return None
    return since


def _container(status: ContainerStatus) -> ContainerState:
    state, last = status.state or State(), status.last_state or State()
    waiting = state.waiting or Ended()
    # While the container waits for its restart the last termination tells why it ended.
    ended = state.terminated or last.terminated or Ended()
    return ContainerState(
        ready=status.ready,
        restart_count=status.restart_count,
        waiting_reason=waiting.reason,
        waiting_message=waiting.message,
        terminated_reason=ended.reason,
        terminated_message=ended.message,
        terminated_exit_code=ended.exit_code,
    )
