"""Fresh reads into one frozen `Observed`: the LLMDeployment, its pods by label, its other children by name.

Nothing is cached between passes and no watch event is believed, so lost, late and repeated events cannot mislead a
decision. The reads run in parallel and may be some milliseconds apart; the preconditions on writes cover that gap.
Children are read by name, not by label: a foreign object that took a child's name must be seen, too.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from headway_operator.core import names
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import Defaults, EngineSample, Observed, OwnedObject, PodView
from headway_operator.core.plan import Manifest
from headway_operator.shell.kube import (
    RESOURCES,
    Failure,
    FleetKey,
    KubeApi,
    KubeError,
    Ref,
    at,
    text_at,
)
from headway_operator.shell.pods import Metadata, Pod, pod_view
from headway_operator.shell.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Reads:
    """What the API server said about one fleet."""

    manifest: Manifest
    pods: tuple[PodView, ...]
    children: tuple[OwnedObject, ...]
    autoscalers: tuple[str, ...] = ()  # see `Observed`


@dataclass(frozen=True, slots=True)
class Carried:
    """What one pass of this process leaves to the next: the last refusal, the memory of the decisions, names not to use."""

    refusal: Refusal | None = None
    memory: LoopMemory | None = None
    taken: frozenset[str] = frozenset()


async def read_fleet(kube: KubeApi, key: FleetKey) -> Reads | None:
    """Read everything of a fleet; None when the LLMDeployment is gone."""
    manifest, pods, children = await asyncio.gather(
        _get(kube, key.ref),
        kube.list_as(Pod, "Pod", key.namespace, names.selector(key.name)),
        asyncio.gather(*(_get(kube, ref) for ref in child_refs(key))),
    )
    if manifest is None:
        return None
    uid = text_at(manifest, "metadata", "uid")
    return Reads(
        manifest=manifest,
        pods=tuple(sorted((pod_view(pod) for pod in pods if pod.metadata.controller == uid), key=lambda pod: pod.name)),
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
        taken=carried.taken,
    )


def child_refs(key: FleetKey) -> tuple[Ref, ...]:
    """The children that have one fixed name."""
    return (
        Ref("ServiceAccount", key.namespace, key.name),
        Ref("Service", key.namespace, names.service_name(key.name)),
        Ref("Service", key.namespace, names.engines_service_name(key.name)),
        Ref("PodDisruptionBudget", key.namespace, key.name),
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
        controlled=msgspec.convert(manifest.get("metadata"), Metadata).controller == uid,
        # Answers of a GET carry both; the core compares whole manifests, so make sure.
        manifest={"apiVersion": RESOURCES[kind].api_version, "kind": kind, **manifest},
    )
