"""Ten thousand clients that change their minds, through the real server and the real scheduler: nothing of them is left."""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from fake_engine_client import eventually, nothing_left
from fake_engine_model import QuickExecutor, config, loaded
from loopback import served

from headway_engine.core.batch import Batch
from headway_engine.runtime.engine import AsyncEngine
from headway_rpc import EngineStub, pb

STREAMS, AT_ONCE = 10_000, 200
AT_ONCE_BY_ALL = 3_000  # gRPC itself begins to drop calls at 1,000
PROMPT, ANSWER = 20, 60


class GatedExecutor(QuickExecutor):
    """Its steps wait until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def run(self, batch: Batch) -> tuple[int, ...]:
        self.gate.wait(60)
        return super().run(batch)


def request(number: int, generator: random.Random) -> pb.GenerateRequest:
    ids = [generator.randrange(97, 120) for _ in range(PROMPT)]
    return pb.GenerateRequest(
        request_id=f"r{number}",
        tokenized=pb.TokenizedInput(input_ids=ids),
        sampling_params=pb.SamplingParams(max_tokens=ANSWER, ignore_eos=True),
        priority=generator.choice([pb.PRIORITY_REALTIME, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH]),
    )


async def one_call(stub: EngineStub, number: int, generator: random.Random) -> str:
    """Read some messages, then leave: by cancelling the call, by Abort, or by a deadline that is soon over."""
    how = generator.choice(["cancel", "abort", "deadline"])
    call = stub.Generate(request(number, generator), timeout=0.01 if how == "deadline" else None)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        for _ in range(generator.randrange(4)):
            if await call.read() is grpc.aio.EOF:
                return how
        if how == "abort":
            await stub.Abort(pb.AbortRequest(request_ids=[f"r{number}"]))
        while how != "cancel" and await call.read() is not grpc.aio.EOF:
            pass
    call.cancel()
    return how


async def one_mux(stub: EngineStub, numbers: range, generator: random.Random) -> str:
    """Many requests on one stream; most are aborted there, and then the stream is closed on the rest."""
    call = stub.GenerateMux()
    for number in numbers:
        await call.write(pb.MuxRequest(generate=request(number, generator)))
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        for number in generator.sample(numbers, len(numbers) // 2):
            await call.write(pb.MuxRequest(abort=f"r{number}"))
            if generator.random() < 0.2:
                await call.read()
    call.cancel()
    return "mux"


@pytest.mark.timeout(240)
async def test_ten_thousand_streams_that_are_given_up_anywhere_leave_nothing() -> None:
    settings = replace(config(max_num_seqs=32, max_num_batched_tokens=256), max_queued_requests=1024)
    engine = AsyncEngine.embed(settings, loaded(QuickExecutor()))
    async with served(engine) as address, grpc.aio.insecure_channel(address) as channel:
        stub = EngineStub(channel)
        await stub.GetModelInfo(pb.GetModelInfoRequest())
        tasks_before = len(asyncio.all_tasks())
        generator = random.Random(1)
        slots = asyncio.Semaphore(AT_ONCE)

        async def limited(work: "asyncio.Future[str]") -> str:
            async with slots:
                return await work

        calls = [one_call(stub, number, generator) for number in range(STREAMS // 2)]
        muxes = [one_mux(stub, range(start, start + 50), generator) for start in range(STREAMS // 2, STREAMS, 50)]
        ways = await asyncio.gather(*(limited(work) for work in [*calls, *muxes]))  # type: ignore[arg-type]
        assert {"cancel", "abort", "deadline", "mux"} == set(ways)
        await eventually(lambda: nothing_left(engine) and len(asyncio.all_tasks()) <= tasks_before)
        stats = engine.stats()
        assert stats.requests_received > STREAMS // 2, "some are cancelled on their way"
        ends = stats.requests_finished
        assert sum(ends.values()) + sum(stats.requests_rejected.values()) == stats.requests_received
        assert ends["abort"] > 0
        assert (len(engine._streams), len(engine._entrance)) == (0, 0)


@pytest.mark.timeout(120)
async def test_thousands_of_calls_at_once_are_all_answered_by_the_engine_none_dropped_by_grpc() -> None:
    executor = GatedExecutor()
    engine = AsyncEngine.embed(config(max_num_seqs=32, max_num_batched_tokens=256), loaded(executor))  # type: ignore[arg-type]
    async with served(engine) as address, grpc.aio.insecure_channel(address) as channel:
        stub, generator = EngineStub(channel), random.Random(2)
        await stub.GetModelInfo(pb.GetModelInfoRequest())

        async def code(number: int) -> grpc.StatusCode:
            try:
                async for _ in stub.Generate(request(number, generator)):
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        calls = asyncio.gather(*(asyncio.create_task(code(number)) for number in range(AT_ONCE_BY_ALL)))
        # Nobody ends before all have come, however slowly they come on a busy machine: so the queue is full for most.
        await eventually(lambda: engine.stats().requests_received == AT_ONCE_BY_ALL)
        executor.gate.set()
        codes = Counter(await calls)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
