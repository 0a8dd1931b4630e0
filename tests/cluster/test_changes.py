"""What a change of the spec does to running pods: limits are live, capacity rolls, and neither loses a request."""

import asyncio
import json
import urllib.request

import pytest
import steps
from fleets import DRAIN_S, SERVES_S, SOON_S, apply, manifest, uids
from load_client import Load, endpoints, ready_addresses

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "change"
CHANGED = {"maxNumSeqs": 7, "maxNumBatchedTokens": 128}
RULES = 'headway_engine_limit_rules{batching_mode="adaptive",model_name="smollm2",profile="low-tail"} 1.0'


def engine_metrics(namespace: str) -> str:
    [pod] = steps.engine_pods(NAME, namespace)
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics", timeout=SOON_S) as answer:
        return str(answer.read(), "utf-8")


def effective(namespace: str) -> dict[str, int]:
    limits: dict[str, int] = steps.fleet(NAME, namespace)["status"]["tuning"]["effective"]
    return limits


def test_a_changed_limit_is_live_and_a_changed_capacity_rolls_and_both_lose_nothing(namespace: str) -> None:
    asyncio.run(_changes(namespace))


async def _changes(namespace: str) -> None:
    deployment = manifest(NAME)
    await asyncio.to_thread(apply, namespace, deployment)
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    before = uids(NAME, namespace)
    async with Load(NAME, namespace, clients=4, prompt="Once upon a time", max_tokens=24) as load:
        await load.until("an answer", lambda: load.outcome.completed > 0, SERVES_S)
        deployment["spec"]["engine"]["limits"] = {**CHANGED, "batchingMode": "Adaptive", "profile": "LowTail"}
        await asyncio.to_thread(apply, namespace, deployment)
        await load.until("the new limits", lambda: effective(namespace).items() >= CHANGED.items(), SOON_S)
        assert uids(NAME, namespace) == before
        told = await asyncio.to_thread(steps.run, ["headway", "explain", NAME, "--namespace", namespace])
        assert "maxNumSeqs 4 -> 7" in told
        await load.until("the engine's own word", lambda: RULES in engine_metrics(namespace), SOON_S)
        answered = load.outcome.completed
        await load.until("an answer under them", lambda: load.outcome.completed > answered, SERVES_S)
        deployment["spec"]["engine"]["capacity"] = {"maxNumSeqs": 24, "maxNumBatchedTokens": 256}
        await asyncio.to_thread(apply, namespace, deployment)
        await load.until("another pod", lambda: bool(uids(NAME, namespace) - before), SERVES_S)
        await load.until("answers of both", lambda: len(load.outcome.by_address) == 2, SERVES_S)
        await load.until("the end of the old one", lambda: not uids(NAME, namespace) & before, DRAIN_S + SOON_S)
        await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    assert load.outcome.failures == []
    assert len(uids(NAME, namespace)) == 1
    assert effective(namespace)["maxNumSeqs"] == 7


def test_evicting_every_pod_as_a_node_drain_does_goes_one_by_one_and_loses_nothing(namespace: str) -> None:
    asyncio.run(_evictions(namespace))


async def _evictions(namespace: str) -> None:
    await asyncio.to_thread(apply, namespace, manifest(NAME, replicas=2))
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    first, second = [pod["metadata"]["name"] for pod in await asyncio.to_thread(steps.engine_pods, NAME, namespace)]
    before = uids(NAME, namespace)
    async with Load(NAME, namespace, clients=4, prompt="Once upon a time", max_tokens=24, replicas=2) as load:
        await load.until("answers of both", lambda: len(load.outcome.by_address) == 2, SERVES_S)
        # A controller counts for the budget who serves, some moments after they do.
        await load.until("the first to go", lambda: evicted(first, namespace), SOON_S)
        assert not await asyncio.to_thread(evicted, second, namespace), "nobody serves in the place of the first yet"
        await load.until("its turn", lambda: evicted(second, namespace), SERVES_S)
        # It finishes its streams meanwhile.
        assert len(uids(NAME, namespace) - before) >= 1
        await load.until("two others", lambda: len(uids(NAME, namespace) - before) == 2, SOON_S)
        await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    assert load.outcome.failures == []


def evicted(pod: str, namespace: str) -> bool:
    """Ask for a pod's eviction; whether the disruption budget lets it go."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    try:
        steps.run(["kubectl", "create", "--raw", path, "-f", "-"], stdin=json.dumps(body))
    except steps.StepError as error:
        if "disruption budget" in str(error):
            return False
        raise
    return True


def test_a_pod_that_lost_its_serving_label_is_soon_back_behind_the_service(served: tuple[str, str]) -> None:
    name, namespace = served
    [pod] = steps.engine_pods(name, namespace)
    address = endpoints(name, namespace)
    label = "serving.headway.dev/serving"
    steps.run(["kubectl", "label", "pod", pod["metadata"]["name"], "-n", namespace, f"{label}-"])
    steps.wait_until(
        "the label",
        lambda: [one["metadata"]["labels"].get(label) for one in steps.engine_pods(name, namespace)] == ["true"],
        timeout_s=SOON_S,
    )
    steps.wait_until("the endpoint", lambda: ready_addresses(name, namespace) == address, timeout_s=SOON_S)
    assert [one["metadata"]["uid"] for one in steps.engine_pods(name, namespace)] == [pod["metadata"]["uid"]]
