"""Two classes share one fleet: chats are answered while a heap of batch work fills only what they leave free."""

import asyncio
import statistics
import time
import urllib.request
from typing import Any, NamedTuple

import grpc
import pytest
import steps
from fleets import SOON_S, apply, manifest, uids
from load_client import ANSWER_S, endpoints

from headway_rpc import EngineStub, pb

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "shared"
HEAP, HEAP_TOKENS = 16, 64
SLOTS, RESERVED = 4, 25


class Answer(NamedTuple):
    """Tokens, the wait for a slot, and how long the answer took from then on."""

    tokens: int
    queue_ms: float
    own_ms: float


async def answered(stub: EngineStub, kind: "pb.Priority.ValueType", max_tokens: int) -> Answer:
    """Ask once in a class."""
    asked_s = time.monotonic()
    parameters = pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    request = pb.GenerateRequest(text="Once upon a time", priority=kind, sampling_params=parameters)
    async for message in stub.Generate(request, timeout=ANSWER_S):
        if message.HasField("complete"):
            done = message.complete
            return Answer(len(done.output_ids), done.queue_ms, 1000 * (time.monotonic() - asked_s) - done.queue_ms)
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
            "windowSeconds": 120,
            "ttft": {"targetMilliseconds": 2000},
            # So loose that a starved machine keeps it: a miss of it is no demand of the batch work.
            "interTokenLatency": {"targetMilliseconds": 4000},
            "classes": [
                {
                    "workloadClass": "batch",
                    "deadlineSeconds": 3600,
                    "interTokenLatency": {"targetMilliseconds": 4000},
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
    [address] = endpoints(NAME, namespace)
    chats = asyncio.run(_both(address))
    steps.wait_until(
        "both classes in the status",
        lambda: all(
            "ttftObservedMilliseconds" in of_classes(namespace).get(kind, {}) for kind in ("interactive", "batch")
        ),
        timeout_s=SOON_S,
    )
    steps.wait_until(
        "the work with a deadline done", lambda: deadline(namespace).get("waitingRequests") == 0, timeout_s=SOON_S
    )
    assert (deadline(namespace)["seconds"], deadline(namespace)["lateCount"]) == (3600, 0)
    told = steps.run(["headway", "explain", NAME, "--namespace", namespace])
    assert "deadline 3600 s: 0 requests wait or run" in told
    with urllib.request.urlopen(f"http://{address.removesuffix(':50051')}:8080/metrics", timeout=SOON_S) as answer:
        metrics = str(answer.read(), "utf-8")
    for kind, count in (("interactive", chats), ("batch", HEAP)):
        labels = f'model_name="smollm2",workload_class="{kind}"'
        assert f"headway_engine_class_requests_finished_total{{{labels}}} {count}.0" in metrics
    assert 'headway_engine_limit_batch_deadline_ms{model_name="smollm2"} 3.6e+06' in metrics
    scaling = steps.fleet(NAME, namespace)["status"]["scaling"]
    assert uids(NAME, namespace) == before, f"batch work within its deadline started a replica: {scaling}"


async def _both(address: str) -> int:
    """Chats, one after the other, for as long as the heap lasts; returns how many there were."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = EngineStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answered(stub, 99, 4)  # type: ignore[arg-type]
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "priority must be one of" in (refused.value.details() or "")

        heap = [asyncio.create_task(answered(stub, pb.PRIORITY_BATCH, HEAP_TOKENS)) for _ in range(HEAP)]
        running: list[int] = []
        chats: list[Answer] = []
        while not all(one.done() for one in heap):
            chats.append(await answered(stub, pb.PRIORITY_INTERACTIVE, 4))
            running.append((await stub.GetLoads(pb.GetLoadsRequest(), timeout=SOON_S)).num_running)
        batch = await asyncio.gather(*heap)
    assert {chat.tokens for chat in chats} == {4}
    assert {one.tokens for one in batch} == {HEAP_TOKENS}
    # In units of the engine's own speed: a step or two against the steps of an answer, of which one ends every third of that.
    wait_ms, answer_ms = (
        statistics.median(values) for values in ([one.queue_ms for one in chats], [one.own_ms for one in batch])
    )
    assert wait_ms < answer_ms / 6, "chats waited for slots of batch work"
    assert 1 < max(running) <= SLOTS * (100 - RESERVED) // 100, (
        f"batch work did not keep to its slack, or did not use it: {running}"
    )
    return len(chats)
