"""A core small enough to see through, for tests of the shell: two pods, one of each child, status, drain on delete."""

from collections.abc import Mapping

from headway_operator.core import names
from headway_operator.core.observed import Observed
from headway_operator.core.plan import (
    Action,
    AddFinalizer,
    Apply,
    DeletePod,
    Emit,
    Json,
    MarkDraining,
    Plan,
    RemoveFinalizer,
    StartDrain,
    WriteStatus,
)

REPLICAS = 2
STARTED = "2026-01-01T00:00:00Z"


def decide(observed: Observed) -> Plan:
    metadata = observed.manifest["metadata"]
    assert isinstance(metadata, dict)
    finalizers = metadata.get("finalizers") or []
    assert isinstance(finalizers, list)
    if metadata.get("deletionTimestamp"):
        return Plan(tuple(_teardown(observed, finalizers)), 2.0)
    actions: list[Action] = []
    if names.FINALIZER not in finalizers:
        actions.append(AddFinalizer("a drain must be possible before anything exists"))
    have = {(child.kind, child.name): child.manifest for child in observed.children}
    actions += [
        Apply(wanted, "missing or changed")
        for wanted in _children(metadata)
        if not _holds(have.get((str(wanted["kind"]), _name(wanted))), wanted)
    ]
    pods = {pod.name for pod in observed.pods}
    missing = [pod for pod in _pods(metadata, observed) if _name(pod) not in pods]
    actions += [Apply(pod, "replica missing") for pod in missing]
    if missing:
        actions.append(Emit("Normal", "ReplicasCreated", f"created {len(missing)} pods"))
    status: dict[str, Json] = {
        "observedGeneration": metadata.get("generation"),
        "replicas": len(pods),
        "readyReplicas": sum(pod.ready for pod in observed.pods),
    }
    if not _holds(observed.manifest.get("status"), status):
        actions.append(WriteStatus(status, "changed"))
    return Plan(tuple(actions), 30.0)


def _teardown(observed: Observed, finalizers: list[Json]) -> list[Action]:
    if names.FINALIZER not in finalizers:
        return []
    actions: list[Action] = []
    for pod in observed.pods:
        if pod.labels.get(names.LABEL_SERVING) == "true":
            actions.append(MarkDraining(pod.name, pod.uid, STARTED, "fleet deleted"))
            if pod.ip:
                actions.append(StartDrain(pod.name, 30, "fleet deleted"))
        elif not pod.deleting:
            actions.append(DeletePod(pod.name, pod.uid, "drained"))
    return actions or ([] if observed.pods else [RemoveFinalizer("all pods are gone")])


def _holds(actual: object, wanted: object) -> bool:
    """Is everything wanted there?"""
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(_holds(actual.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(_holds(have, want) for have, want in zip(actual, wanted, strict=True))
        )
    return actual == wanted


def _name(manifest: Mapping[str, Json]) -> str:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])


def _meta(owner: dict[str, Json], name: str, labels: dict[str, Json]) -> dict[str, Json]:
    return {
        "name": name,
        "namespace": owner["namespace"],
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": owner["name"],
                "uid": owner["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _children(owner: dict[str, Json]) -> list[dict[str, Json]]:
    fleet = str(owner["name"])
    labels = names.fleet_labels(fleet)
    port: dict[str, Json] = {"name": "grpc", "port": names.PORT_GRPC}
    selector: dict[str, Json] = {names.LABEL_FLEET: fleet}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _meta(owner, fleet, labels),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta(owner, fleet, labels),
            "spec": {"selector": {**selector, names.LABEL_SERVING: "true"}, "ports": [port]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta(owner, names.engines_service_name(fleet), labels),
            "spec": {"clusterIP": "None", "selector": selector, "ports": [port]},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _meta(owner, fleet, labels),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
        },
    ]


def _pods(owner: dict[str, Json], observed: Observed) -> list[dict[str, Json]]:
    fleet = str(owner["name"])
    revision = "abc123"
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": _meta(owner, names.pod_name(fleet, revision, ordinal), names.pod_labels(fleet, revision)),
            "spec": {
                "serviceAccountName": fleet,
                "automountServiceAccountToken": False,
                "containers": [{"name": "engine", "image": observed.defaults.engine_image}],
            },
        }
        for ordinal in range(REPLICAS)
    ]
