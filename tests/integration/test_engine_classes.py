"""Workload classes over real gRPC, with the real scheduler behind it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from fake_engine_model import ScriptedExecutor, config, loaded

from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_rpc import EngineControlStub, pb
from headway_rpc.client import EngineClient

ARGV = ["--model", "/m/fake.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]


@dataclass
class Served:
    client: EngineClient
    control: EngineControlStub
    executor: ScriptedExecutor


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    lifecycle = Lifecycle()
    ports = GrpcPorts(parse(ARGV, {}), lifecycle)
    await ports.start()
    executor = ScriptedExecutor((b"yes",))
    engine = AsyncEngine.embed(config(), loaded(executor))
    lifecycle.loaded(engine)
    async with (
        EngineClient(f"127.0.0.1:{ports.data_port}") as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.control_port}") as control,
    ):
        yield Served(client, EngineControlStub(control), executor)
    await engine.stop()
    await ports.stop(0)


async def answer(client: EngineClient, priority: "pb.Priority.ValueType") -> None:
    sampling = pb.SamplingParams(max_tokens=3, seed=0)
    wanted = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[7]), priority=priority, sampling_params=sampling)
    async for _ in client.generate(wanted):
        pass


async def finished(served: Served) -> dict[int, tuple[int, int, int]]:
    stats = await served.control.GetStats(pb.GetStatsRequest())
    return {one.workload_class: (one.requests_finished, one.ttft.count, one.itl.count) for one in stats.classes}


async def test_requests_count_in_the_class_that_they_name_or_else_in_the_default_one(served: Served) -> None:
    asked = (pb.PRIORITY_REALTIME, pb.PRIORITY_BATCH, pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_UNSPECIFIED)
    await asyncio.gather(*(answer(served.client, priority) for priority in asked))
    assert await finished(served) == {
        pb.PRIORITY_REALTIME: (1, 1, 2),
        pb.PRIORITY_INTERACTIVE: (2, 2, 4),
        pb.PRIORITY_BATCH: (1, 1, 2),
    }
    limits = pb.Limits(default_class=pb.PRIORITY_BATCH)
    await served.control.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=limits))
    await answer(served.client, pb.PRIORITY_UNSPECIFIED)
    assert (await finished(served))[pb.PRIORITY_BATCH] == (2, 2, 4)
    stats = await served.control.GetStats(pb.GetStatsRequest())
    assert sum(one.requests_admitted for one in stats.classes) == stats.requests_received == 5
    assert sum(one.prompt_tokens_admitted for one in stats.classes) == stats.prompt_tokens == 5
    (batch,) = (one for one in stats.classes if one.workload_class == pb.PRIORITY_BATCH)
    assert (batch.requests_admitted, batch.prompt_tokens_admitted, batch.prompt_tokens) == (2, 2, 2)
    assert stats.generation_tokens == sum(one.ttft.count + one.itl.count for one in stats.classes)


async def test_default_class_reserve_and_queue_of_batch_work_change_live(served: Served) -> None:
    before = await served.control.GetRuntimeConfig(pb.GetRuntimeConfigRequest())
    assert before.effective.default_class == pb.PRIORITY_INTERACTIVE
    wanted = pb.Limits(
        default_class=pb.PRIORITY_BATCH, reserved_percent=20, max_queued_batch_requests=900, batch_deadline_ms=900_000
    )
    after = await served.control.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=wanted))
    changed = after.effective.default_class, after.effective.reserved_percent, after.effective.max_queued_batch_requests
    assert changed == (pb.PRIORITY_BATCH, 20, 900)
    assert after.effective.batch_deadline_ms == 900_000
    assert after.effective.max_num_seqs == before.effective.max_num_seqs
    own = pb.Limits(
        interactive_itl_target_ms=100, batch_itl_target_ms=500, ttft_target_ms=500, interactive_ttft_target_ms=1500
    )
    last = await served.control.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=own))
    assert (last.effective.interactive_itl_target_ms, last.effective.batch_itl_target_ms) == (100, 500)
    assert (last.effective.ttft_target_ms, last.effective.interactive_ttft_target_ms) == (500, 1500)
    assert (before.effective.ttft_target_ms, last.envelope.ttft_target_ms.max) == (0, 86_400_000)
    assert last.envelope.interactive_ttft_target_ms.max == 86_400_000
    assert last.effective.itl_target_ms == before.effective.itl_target_ms == 50
    assert (last.envelope.interactive_itl_target_ms.max, last.envelope.batch_itl_target_ms.min) == (60_000, 0)
    assert (after.envelope.reserved_percent.max, after.envelope.max_queued_batch_requests.max) == (90, 1024)


async def test_batch_requests_that_end_after_their_deadline_are_counted_and_answered_all_the_same(
    served: Served,
) -> None:
    await answer(served.client, pb.PRIORITY_BATCH)
    await served.control.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=pb.Limits(batch_deadline_ms=1)))
    served.executor.hold()
    asked = [asyncio.create_task(answer(served.client, kind)) for kind in (pb.PRIORITY_BATCH, pb.PRIORITY_INTERACTIVE)]
    stats = await served.control.GetStats(pb.GetStatsRequest())
    while stats.loads.num_total < 2:
        stats = await served.control.GetStats(pb.GetStatsRequest())
    taken_s = stats.uptime_seconds
    while stats.uptime_seconds < taken_s + 0.002:
        stats = await served.control.GetStats(pb.GetStatsRequest())
    served.executor.release(100)
    await asyncio.gather(*asked)
    stats = await served.control.GetStats(pb.GetStatsRequest())
    late = {one.workload_class: (one.requests_finished, one.requests_late) for one in stats.classes}
    assert late == {pb.PRIORITY_BATCH: (2, 1), pb.PRIORITY_INTERACTIVE: (1, 0)}
    assert stats.loads.HasField("waiting_batch_prompt_tokens")
    assert stats.loads.waiting_batch_prompt_tokens == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            pb.Limits(default_class=pb.PRIORITY_UNSPECIFIED),
            "limits.default_class is 0, it must be one of realtime, interactive, batch",
        ),
        (pb.Limits(reserved_percent=91), "limits.reserved_percent is 91, the envelope allows 0 to 90"),
        (
            pb.Limits(max_queued_batch_requests=1025),
            "limits.max_queued_batch_requests is 1025, the envelope allows 0 to 1024",
        ),
        (
            pb.Limits(batch_deadline_ms=86_400_001),
            "limits.batch_deadline_ms is 86400001, the envelope allows 0 to 86400000",
        ),
        (
            pb.Limits(interactive_itl_target_ms=60_001),
            "limits.interactive_itl_target_ms is 60001, the envelope allows 0 to 60000",
        ),
        (
            pb.Limits(interactive_ttft_target_ms=86_400_001),
            "limits.interactive_ttft_target_ms is 86400001, the envelope allows 0 to 86400000",
        ),
        (
            pb.Limits(batch_itl_target_ms=60_001),
            "limits.batch_itl_target_ms is 60001, the envelope allows 0 to 60000",
        ),
    ],
)
async def test_a_class_or_a_share_that_cannot_be_is_refused_by_name(
    served: Served, limits: pb.Limits, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.control.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=limits))
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)
