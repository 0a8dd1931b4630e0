"""Manifests for the end-to-end tests, and questions asked of a running fleet."""

import json
from typing import Any

import steps

from headway_operator.core.plan import IDLE_S

PACKED_MODEL = "/models/smollm2.gguf"

# How long is waited before something counts as not happening. None of it is a promise of speed: the machine may be busy.
SOON_S = 2 * IDLE_S  # for a pass of the operator: one comes each `IDLE_S` even if nothing asked for it
SERVES_S = 300.0  # for a pod from its creation until it takes requests, or for one in the place of another
DRAIN_S = 300  # for streams of a pod that leaves: what a drain cuts when its time is over is asked nowhere here


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    """Return a small CPU fleet; keyword arguments replace whole parts of its spec."""
    return {
        "apiVersion": "serving.headway.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": {"packed": {"path": PACKED_MODEL}}},
            "engine": {
                "device": "cpu",
                "maxModelLen": 1024,
                "capacity": {"maxNumSeqs": 16, "maxNumBatchedTokens": 256},
                # Loads of the tests begin before the replicas that serve them: nobody is refused meanwhile.
                "limits": {"maxNumSeqs": 4, "maxQueuedRequests": 256},
                "resources": {
                    "requests": {"cpu": "200m", "memory": "700Mi"},
                    "limits": {"cpu": "700m", "memory": "2Gi"},
                },
            },
            # Seven tenths of a CPU: the gap between two tokens holds the prefills of others.
            "slo": {
                "workloadClass": "interactive",
                "ttft": {"targetMilliseconds": 1500},
                "interTokenLatency": {"targetMilliseconds": 1000},
            },
            "drain": {"timeoutSeconds": DRAIN_S, "endpointRemovalDelaySeconds": 2},
            **spec,
        },
    }


def apply(namespace: str, deployment: dict[str, Any]) -> None:
    """Server-side apply as a user would, taking over fields on a second apply."""
    steps.run(
        ["kubectl", "apply", "--server-side", "--field-manager=e2e", "-n", namespace, "-f", "-"],
        stdin=json.dumps(deployment),
    )


def remains(name: str, namespace: str) -> list[str]:
    """Return what is still there of a fleet, as kind/name."""
    kinds = "llmdep,pods,services,serviceaccounts,poddisruptionbudgets,endpointslices"
    items = json.loads(steps.run(["kubectl", "get", kinds, "-n", namespace, "-o", "json"]))["items"]
    return sorted(
        f"{item['kind']}/{item['metadata']['name']}" for item in items if item["metadata"]["name"].startswith(name)
    )


def uids(name: str, namespace: str) -> set[str]:
    """Return the uids of the fleet's pods that are not being deleted."""
    pods = steps.engine_pods(name, namespace)
    return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def wait_condition(name: str, namespace: str, kind: str, status: str, *, timeout_s: float = SOON_S) -> dict[str, Any]:
    """Wait until a condition has a status for the current generation; returns the condition."""
    seen: dict[str, Any] = {}

    def holds() -> bool:
        deployment = steps.fleet(name, namespace)
        seen.clear()
        seen.update(steps.condition(deployment, kind))
        return seen.get("status") == status and seen.get("observedGeneration") == deployment["metadata"]["generation"]

    try:
        steps.wait_until(f"{kind}={status}", holds, timeout_s=timeout_s, every_s=0.3)
    except steps.StepError as error:
        raise AssertionError(f"{error}; last seen: {seen}") from error
    return dict(seen)


def events(name: str, namespace: str, *reasons: str) -> dict[str, str]:
    """Wait until the fleet has Events of these reasons; returns the newest note of each reason that it has.

    A pass writes the status first and posts the Events about it afterwards: what shows in a status may be told a moment later.
    """
    found: dict[str, str] = {}

    def posted() -> bool:
        items = steps.get("events", "-n", namespace, "--sort-by=.metadata.creationTimestamp")["items"]
        found.update({item["reason"]: item["message"] for item in items if item["involvedObject"]["name"] == name})
        return set(reasons) <= found.keys()

    try:
        steps.wait_until(f"Events {', '.join(reasons)} about {name}", posted, timeout_s=SOON_S)
    except steps.StepError as error:
        raise AssertionError(f"{error}; there are: {sorted(found)}") from error
    return found
