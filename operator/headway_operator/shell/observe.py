"""Fresh reads into one frozen `Observed`: the LLMDeployment, its pods by label, its other children by name.

Nothing is cached between passes and no watch event is believed, so lost, late and repeated events cannot mislead a
decision. The reads run in parallel and may be some milliseconds apart; the preconditions on writes cover that gap.
Children are read by name, not by label: a foreign object that took a child's name must be seen, too.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from headway_operator.core import names
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import ContainerState, Defaults, EngineSample, Observed, OwnedObject, PodView
from headway_operator.core.plan import Json, Manifest
from headway_operator.shell.kube import (
    RESOURCES,
    Failure,
    FleetKey,
    KubeApi,
    KubeError,
    Ref,
    at,
    dict_at,
    list_at,
    text_at,
)
from headway_operator.shell.refusals import Refusal

ENGINE_CONTAINER = "engine"


@dataclass(frozen=True, slots=True)
class Reads:
    """What the API server said about one fleet."""

    manifest: Manifest
    pods: tuple[PodView, ...]
    children: tuple[OwnedObject, ...]
    autoscalers: tuple[str, ...] = ()  # see `Observed`


@dataclass(frozen=True, slots=True)
class Carried:
    """What one pass of this process leaves to the next: the last refusal, and the memory of the decisions."""

    refusal: Refusal | None = None
    memory: LoopMemory | None = None


async def read_fleet(kube: KubeApi, key: FleetKey) -> Reads | None:
    """Read everything of a fleet; None when the LLMDeployment is gone."""
    manifest, pods, children = await asyncio.gather(
        _get(kube, key.ref),
        kube.list("Pod", key.namespace, names.selector(key.name)),
        asyncio.gather(*(_get(kube, ref) for ref in child_refs(key))),
    )
    if manifest is None:
        return None
    uid = text_at(manifest, "metadata", "uid")
    return Reads(
        manifest=manifest,
        pods=tuple(sorted((pod_view(pod) for pod in pods if is_controlled(pod, uid)), key=lambda pod: pod.name)),
        children=tuple(
            _owned(ref.kind, child, uid)
            for ref, child in zip(child_refs(key), children, strict=True)
            if child is not None
        ),
        autoscalers=await _autoscalers(kube, key, manifest),
    )


def observed(
    reads: Reads,
    samples: Mapping[str, tuple[EngineSample, ...]],
    monotonic_s: float,
    defaults: Defaults,
    carried: Carried,
) -> Observed:
    """Join the reads with the engines' samples, the clocks and what the pass before left."""
    refusal = carried.refusal
    return Observed(
        manifest=reads.manifest,
        pods=reads.pods,
        children=reads.children,
        autoscalers=reads.autoscalers,
        samples=samples,
        now=datetime.now(UTC),
        monotonic_s=monotonic_s,
        defaults=defaults,
        refused=refusal.message if refusal is not None else "",
        hold_creation=refusal is not None and monotonic_s < refusal.retry_at_s,
        memory=carried.memory,
    )


def child_refs(key: FleetKey) -> tuple[Ref, ...]:
    """The children that have one fixed name."""
    return (
        Ref("ServiceAccount", key.namespace, key.name),
        Ref("Service", key.namespace, names.service_name(key.name)),
        Ref("Service", key.namespace, names.engines_service_name(key.name)),
        Ref("PodDisruptionBudget", key.namespace, key.name),
    )


def is_controlled(manifest: Manifest, uid: str) -> bool:
    """Does an ownerReference of the object name this LLMDeployment as its controller?"""
    return any(
        isinstance(owner, dict) and owner.get("uid") == uid and owner.get("controller") is True
        for owner in list_at(manifest, "metadata", "ownerReferences")
    )


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


def window_s(manifest: Manifest, default_s: float = 60.0) -> float:
    """The SLO window of an LLMDeployment, for the length of the sample histories."""
    value = at(manifest, "spec", "slo", "windowSeconds")
    return float(value) if isinstance(value, int) and value > 0 else default_s


async def _get(kube: KubeApi, ref: Ref) -> Manifest | None:
    try:
        return await kube.get(ref)
    except KubeError as error:
        if error.failure is Failure.NOT_FOUND:
            return None
        raise


async def _autoscalers(kube: KubeApi, key: FleetKey, manifest: Manifest) -> tuple[str, ...]:
    """HorizontalPodAutoscalers on a fleet in mode Auto. () in the other modes, and where the operator may not look."""
    if text_at(manifest, "spec", "scaling", "mode") != "Auto":
        return ()
    try:
        found = await kube.list("HorizontalPodAutoscaler", key.namespace)
    except KubeError as error:
        if error.failure in (Failure.PERMANENT, Failure.NOT_FOUND):
            return ()
        raise
    target = key.ref.kind, key.name
    return tuple(
        sorted(
            text_at(one, "metadata", "name")
            for one in found
            if tuple(text_at(one, "spec", "scaleTargetRef", field) for field in ("kind", "name")) == target
        )
    )


def _owned(kind: str, manifest: Manifest, uid: str) -> OwnedObject:
    return OwnedObject(
        kind=kind,
        name=text_at(manifest, "metadata", "name"),
        uid=text_at(manifest, "metadata", "uid"),
        controlled=is_controlled(manifest, uid),
        # Answers of a GET carry both; the core compares whole manifests, so make sure.
        manifest={"apiVersion": RESOURCES[kind].api_version, "kind": kind, **manifest},
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
