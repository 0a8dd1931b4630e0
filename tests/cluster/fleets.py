"""Manifests for the end-to-end tests, and questions asked of a running fleet."""

import json
from typing import Any

import steps

PACKED_MODEL = "/models/smollm2.gguf"


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
            "drain": {"timeoutSeconds": 60, "endpointRemovalDelaySeconds": 2},
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


def wait_condition(name: str, namespace: str, kind: str, status: str, *, timeout_s: float) -> dict[str, Any]:
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
