"""Two classes share one fleet: chats are answered while a heap of batch work fills only what they leave free."""

import asyncio
import urllib.request
from typing import Any

import grpc
import pytest
import steps
from fleets import apply, manifest, uids
from load_client import ready_addresses

from headway_rpc import EngineStub, pb

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "shared"
HEAP = 16
SLOTS, RESERVED = 4, 25


async def answered(stub: EngineStub, kind: "pb.Priority.ValueType", max_tokens: int) -> int:
    """Ask once in a class; returns the number of tokens that came."""
    parameters = pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    request = pb.GenerateRequest(text="Once upon a time", priority=kind, sampling_params=parameters)
    async for message in stub.Generate(request, timeout=200):
        if message.HasField("complete"):
            return len(message.complete.output_ids)
    raise AssertionError("no `complete`")


def of_classes(namespace: str) -> dict[str, Any]:
    """What the fleet's status says of each class."""
    shown = steps.fleet(NAME, namespace)["status"].get("slo", {}).get("classes", [])
    return {one["workloadClass"]: one for one in shown}


def deadline(namespace: str) -> dict[str, Any]:
    """What the fleet's status says of the work with a deadline."""
    found: dict[str, Any] = steps.fleet(NAME, namespace)["status"].get("slo", {}).get("deadline", {})
    return found


def test_chats_are_answered_while_batch_work_fills_the_slack(namespace: str) -> None:
    shared = manifest(
        NAME,
        scaling={"mode": "Auto", "minReplicas": 1, "maxReplicas": 2},
        slo={
            "workloadClass": "interactive",
            "ttft": {"targetMilliseconds": 2000},
            "interTokenLatency": {"targetMilliseconds": 1000},
            "classes": [
                {
                    "workloadClass": "batch",
                    "deadlineSeconds": 3600,
                    "interTokenLatency": {"targetMilliseconds": 2000},
                }
            ],
        },
    )
    shared["spec"]["engine"]["limits"] = {
        "maxNumSeqs": SLOTS,
        "reservedPercent": RESERVED,
        "maxQueuedBatchRequests": HEAP,
    }
    apply(namespace, shared)
    steps.wait_ready(NAME, namespace)
    before = uids(NAME, namespace)
    [address] = ready_addresses(NAME, namespace)
    chats = asyncio.run(_both(address))
    steps.wait_until(
        "both classes in the status",
        lambda: all(
            "ttftObservedMilliseconds" in of_classes(namespace).get(kind, {}) for kind in ("interactive", "batch")
        ),
        timeout_s=30,
    )
    steps.wait_until(
        "the work with a deadline done", lambda: deadline(namespace).get("waitingRequests") == 0, timeout_s=30
    )
    assert (deadline(namespace)["seconds"], deadline(namespace)["lateCount"]) == (3600, 0)
    told = steps.run(["headway", "explain", NAME, "--namespace", namespace])
    assert "deadline 3600 s: 0 requests wait or run" in told
    with urllib.request.urlopen(f"http://{address.removesuffix(':50051')}:8080/metrics", timeout=5) as answer:
        metrics = str(answer.read(), "utf-8")
    for kind, count in (("interactive", chats), ("batch", HEAP)):
        labels = f'model_name="smollm2",workload_class="{kind}"'
        assert f"headway_engine_class_requests_finished_total{{{labels}}} {count}.0" in metrics
    assert 'headway_engine_limit_batch_deadline_ms{model_name="smollm2"} 3.6e+06' in metrics
    assert uids(NAME, namespace) == before, "batch work within its deadline started a replica"


async def _both(address: str) -> int:
    """Chats, one after the other, for as long as the heap lasts; returns how many there were."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = EngineStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answered(stub, 99, 4)  # type: ignore[arg-type]
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "priority must be one of" in (refused.value.details() or "")

        heap = [asyncio.create_task(answered(stub, pb.PRIORITY_BATCH, 64)) for _ in range(HEAP)]
        running: list[int] = []
        while not all(one.done() for one in heap):
            assert await answered(stub, pb.PRIORITY_INTERACTIVE, 4) == 4
            running.append((await stub.GetLoads(pb.GetLoadsRequest(), timeout=10)).num_running)
        assert await asyncio.gather(*heap) == [64] * HEAP
    assert len(running) >= HEAP, "chats waited for batch work"
    assert 1 < max(running) <= SLOTS * (100 - RESERVED) // 100, (
        "batch work did not keep to its slack, or did not use it"
    )
    return len(running)
