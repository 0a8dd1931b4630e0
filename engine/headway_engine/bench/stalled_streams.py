"""Server and clients of the case `stalled`; see `stalled.py`."""

import argparse
import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from headway_engine.bench.report import Figure, of_samples
from headway_engine.core.batch import Batch
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel, ModelFacts
from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_rpc import EngineStub, pb

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import EngineAsyncStub

GOAL = 0.95
_TEXT = "x" * 64  # of a token: a flow-control window of 64 KiB holds some 700 of them
_WINDOW_TOKENS = 1000
_LONGEST = 1 << 20
_MIB = 1 << 20


def measure(options: argparse.Namespace) -> tuple[Figure, ...]:
    """The figures of the case."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, options.step / 1000), daemon=True)
    server.start()
    try:
        return asyncio.run(_measure(f"127.0.0.1:{ours.recv()}", int(server.pid or 0), options))
    finally:
        server.terminate()
        server.join()


# ---- the server's process -------------------------------------------------------------------------------------------


class _FixedExecutor:
    """Every step takes the same time and answers token 1."""

    num_blocks, block_size = 1 << 20, 16

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    def begin(self) -> None:
        """See `core.batch.Executor`."""

    def run(self, batch: Batch) -> tuple[int, ...]:
        """See `core.batch.Executor`."""
        time.sleep(self._step_s)
        return tuple(1 for chunk in batch.chunks if chunk.sample)


class _LongTokens:
    """A tokenizer whose tokens are all the same long text."""

    vocab_size, eos_token_ids, chat_template, words_apart = 16, (), "", False

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """See `runtime.tokenize.Tokenizer`."""
        return [[1] for _ in texts]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:  # noqa: ARG002 - it has none
        """See `runtime.tokenize.Tokenizer`."""
        return _TEXT * len(ids)

    def serialized(self) -> str:
        """See `runtime.tokenize.Tokenizer`."""
        return "{}"


def _serve(pipe: Connection, step_s: float) -> None:
    asyncio.run(_served(pipe, step_s))


async def _served(pipe: Connection, step_s: float) -> None:
    facts = ModelFacts("llama", "float32", "cpu", _LONGEST, _LongTokens.vocab_size)
    setup = EngineConfig(
        Path("fixed"), capacity_max_num_seqs=1024, capacity_max_num_batched_tokens=4096, max_queued_requests=1024
    )
    engine = AsyncEngine.embed(setup, LoadedModel(_FixedExecutor(step_s), _LongTokens(), facts))
    lifecycle = Lifecycle()
    flags = ["--model", "fixed", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]
    ports = GrpcPorts(parse(flags, {}), lifecycle)
    await ports.start()
    lifecycle.loaded(engine)
    pipe.send(ports.data_port)
    await asyncio.Event().wait()


# ---- the clients' process -------------------------------------------------------------------------------------------


class _Reader:
    """Streams that are read, and how many tokens they brought."""

    def __init__(self, stub: "EngineAsyncStub", count: int) -> None:
        self.tokens = 0
        self._tasks = [asyncio.create_task(self._read(stub)) for _ in range(count)]

    async def until(self, tokens: int) -> None:
        """Wait until they have brought so many."""
        while self.tokens < tokens:  # noqa: ASYNC110 - nobody else waits for a number of tokens
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Cancel them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, stub: "EngineAsyncStub") -> None:
        async for message in stub.Generate(_request()):
            self.tokens += len(message.chunk.token_ids)


@contextlib.asynccontextmanager
async def _reading(stub: "EngineAsyncStub", count: int) -> AsyncIterator[None]:
    others = _Reader(stub, count)
    yield
    await others.close()


@contextlib.asynccontextmanager
async def _stalled(stub: "EngineAsyncStub", count: int) -> AsyncIterator[None]:
    calls = [stub.Generate(_request()) for _ in range(count)]
    await asyncio.gather(*(call.read() for call in calls))
    yield
    for call in calls:
        call.cancel()


def _request() -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_tokens=_LONGEST // 2, ignore_eos=True)
    return pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[1]), sampling_params=sampling)


async def _measure(address: str, server_pid: int, options: argparse.Namespace) -> tuple[Figure, ...]:
    rates: dict[str, list[float]] = {"reading": [], "stalled": []}
    growth: list[float] = []
    left: list[float] = []
    # Connections of their own: one that is full must not hold the measured streams by chance, and 100 streams fit on one.
    pool = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=pool) as channel:
        stub = EngineStub(channel)
        for _ in range(options.repetitions):
            for kind, others in (("reading", _reading), ("stalled", _stalled)):
                async with grpc.aio.insecure_channel(address, options=pool) as second:
                    measured = _Reader(stub, options.measured)
                    async with others(EngineStub(second), options.others):
                        await measured.until(_WINDOW_TOKENS * options.measured)
                        resident, tokens, began = _resident_mib(server_pid), measured.tokens, time.perf_counter()
                        await asyncio.sleep(options.seconds)
                        rates[kind].append((measured.tokens - tokens) / (time.perf_counter() - began))
                        if kind == "stalled":
                            growth.append((_resident_mib(server_pid) - resident) / options.seconds)
                    await measured.close()
                left.append(await _left(stub))
    ratios = [stalled / reading for reading, stalled in zip(rates["reading"], rates["stalled"], strict=True)]
    return (
        of_samples("measured streams, others read", "tok/s", rates["reading"]),
        of_samples("measured streams, others stalled", "tok/s", rates["stalled"]),
        of_samples("ratio", "x", ratios, GOAL),
        of_samples("server memory while stalled", "MiB/s", growth),
        of_samples("streams left after the others are cancelled", "streams", left),
    )


async def _left(stub: "EngineAsyncStub") -> float:
    """Streams in flight once the cancelled ones had a second to end."""
    loads = await stub.GetLoads(pb.GetLoadsRequest())
    for _ in range(20):
        if not loads.num_total:
            break
        await asyncio.sleep(0.05)
        loads = await stub.GetLoads(pb.GetLoadsRequest())
    return float(loads.num_total)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / _MIB
