"""`scaling.mode: External` with a real HorizontalPodAutoscaler: it owns the count, and Headway does all the rest."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import steps
from fleets import DRAIN_S, SERVES_S, SOON_S, apply, manifest
from load_client import Load
from metrics_adapter import MetricsAdapter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "outside"
# One runs on each replica and the others wait: 7 for one, 3 for each of two, where the HPA's target is 2.
CLIENTS = 8
SCALES_S = 300.0  # for the autoscaler: it looks each 15 s, and the queue grows with the answers of a slow engine
HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": NAME},
    "spec": {
        "scaleTargetRef": {"apiVersion": "serving.headway.dev/v1alpha1", "kind": "LLMDeployment", "name": NAME},
        "minReplicas": 1,
        "maxReplicas": 2,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "headway_engine_num_requests_waiting"},
                    "target": {"type": "AverageValue", "averageValue": "2"},
                },
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    },
}


def replicas(namespace: str) -> int:
    count: int = steps.fleet(NAME, namespace)["spec"]["replicas"]
    return count


def owners_of_the_count(namespace: str) -> set[tuple[str, str]]:
    """Manager and subresource of each entry that holds `spec.replicas`."""
    shown = json.loads(
        steps.run(["kubectl", "get", "llmdep", NAME, "-n", namespace, "-o", "json", "--show-managed-fields"])
    )
    return {
        (entry["manager"], entry.get("subresource", ""))
        for entry in shown["metadata"]["managedFields"]
        if "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
    }


def test_a_real_hpa_grows_and_shrinks_a_fleet_by_the_engines_queue_and_nothing_is_cut(
    namespace: str, tmp_path: Path
) -> None:
    with MetricsAdapter(namespace, tmp_path):
        asyncio.run(_story(namespace))


async def _story(namespace: str) -> None:
    deployment: dict[str, Any] = manifest(NAME, replicas=1, scaling={"mode": "External"})
    deployment["spec"]["engine"]["limits"]["maxNumSeqs"] = 1
    await asyncio.to_thread(apply, namespace, deployment)
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    await asyncio.to_thread(steps.run, ["kubectl", "apply", "-n", namespace, "-f", "-"], stdin=json.dumps(HPA))
    async with Load(NAME, namespace, clients=CLIENTS, prompt="Once upon a time", max_tokens=24) as load:
        await load.until("the HPA to order a second replica", lambda: replicas(namespace) == 2, SCALES_S)
        await load.until("two replicas that serve", lambda: _serving(namespace) == 2, SERVES_S)
        await load.until("both replicas to answer", lambda: len(load.outcome.by_address) == 2, SERVES_S)
    assert load.outcome.failures == []
    await _until("the HPA to take one back", lambda: replicas(namespace) == 1, SCALES_S)
    await _until("one replica", lambda: len(steps.engine_pods(NAME, namespace)) == 1, DRAIN_S + SOON_S)
    assert ("kube-controller-manager", "scale") in owners_of_the_count(namespace)
    assert not any(manager.startswith("headway") for manager, _ in owners_of_the_count(namespace))
    assert "RivalWriter" not in json.dumps(steps.fleet(NAME, namespace)["status"])


def _serving(namespace: str) -> int:
    count: int = steps.fleet(NAME, namespace)["status"].get("readyReplicas", 0)
    return count


async def _until(what: str, check: Callable[[], bool], timeout_s: float) -> None:
    await asyncio.to_thread(steps.wait_until, what, check, timeout_s=timeout_s)
