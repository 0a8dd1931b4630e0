"""Whatever bytes a client sends: a status that says whose mistake it is, no neighbour harmed, nothing left behind."""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from fake_engine_client import eventually, nothing_left
from fake_engine_model import ScriptedExecutor, config, loaded
from google.protobuf.message import DecodeError

from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_rpc import EngineStub, pb

ARGV = ["--model", "/m/toy.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]
VALID = pb.GenerateRequest(
    tokenized=pb.TokenizedInput(input_ids=[104, 105]),
    sampling_params=pb.SamplingParams(
        temperature=0.5, top_p=0.9, max_tokens=3, stop=["x"], seed=1, logit_bias={3: 1.0}, regex="[a-z]*"
    ),
    priority=pb.PRIORITY_BATCH,
    timeout_ms=60_000,
    cache_salt="tenant",
)
UNARY = {
    "Engine/Abort": pb.AbortRequest(request_ids=["a"]),
    "Engine/GetLoads": pb.GetLoadsRequest(),
    "Engine/GetModelInfo": pb.GetModelInfoRequest(),
}
CONTROL = {
    "EngineControl/GetStats": pb.GetStatsRequest(),
    "EngineControl/GetRuntimeConfig": pb.GetRuntimeConfigRequest(),
    "EngineControl/UpdateRuntimeConfig": pb.UpdateRuntimeConfigRequest(
        limits=pb.Limits(max_num_seqs=4), lease_seconds=1
    ),
}
# What a client's bytes may come to; INTERNAL and UNKNOWN would say that it is the engine's mistake.
HARMLESS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a mutated timeout_ms
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,  # a mutated expected_revision
}
TRIES = 400


@asynccontextmanager
async def running() -> AsyncIterator[tuple[AsyncEngine, grpc.aio.Channel, grpc.aio.Channel]]:
    """An engine, and connections to its data and control ports."""
    executor = ScriptedExecutor((b"hello world, this goes on for a while",))
    engine = AsyncEngine.embed(config(max_queued_requests=600), loaded(executor))
    lifecycle = Lifecycle()
    ports = GrpcPorts(parse(ARGV, {}), lifecycle)
    await ports.start()
    lifecycle.loaded(engine)
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.data_port}") as data,
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.control_port}") as control,
        ):
            yield engine, data, control
    finally:
        await engine.stop()
        await ports.stop(0)


def raw(data: bytes) -> bytes:
    return data


def mutated(message: bytes, chance: random.Random) -> bytes:
    """The message with some bytes changed, put in, taken out or cut off; or no message at all."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(message)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0 if place < len(data):
                data[place] = chance.randrange(256)
            case 1:
                data[place:place] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del data[place : place + chance.randrange(1, 5)]
            case _:
                data = data[: max(1, place)] if chance.random() < 0.2 else data
    return bytes(data)


def is_readable(message: bytes) -> bool:
    try:
        pb.MuxRequest.FromString(message)
    except DecodeError:
        return False
    return True


async def status(call: Callable[[], AsyncIterator[object]]) -> grpc.StatusCode:
    try:
        async for _ in call():
            pass
    except grpc.aio.AioRpcError as error:
        return error.code() if error.details() else grpc.StatusCode.UNKNOWN
    return grpc.StatusCode.OK


async def neighbour(channel: grpc.aio.Channel, stop: asyncio.Event) -> int:
    """Asks again and again beside the fuzzing; each answer is whole."""
    rounds = 0
    while not stop.is_set() or not rounds:
        answer = [one async for one in EngineStub(channel).Generate(pb.GenerateRequest(text="hi", sampling_params=pb.SamplingParams(seed=0)))]  # fmt: skip
        assert answer[-1].complete.finish_reason == pb.STOP
        assert answer[-1].complete.completion_tokens == len(b"hello world, this goes on for a while") + 1
        rounds += 1
    return rounds


@pytest.mark.parametrize("seed", range(3))
async def test_mutated_requests_get_a_status_of_the_client_and_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    async with running() as (engine, data, control):
        stop = asyncio.Event()
        beside = asyncio.create_task(neighbour(data, stop))
        generate = data.unary_stream("/headway.v1.Engine/Generate", raw, pb.GenerateResponse.FromString)
        found = []
        for _ in range(TRIES):
            message = mutated(VALID.SerializeToString(), chance)
            found.append(await status(lambda message=message: generate(message, timeout=20)))
        for channel, methods in ((data, UNARY), (control, CONTROL)):
            for method, valid in methods.items():
                for _ in range(40):
                    call = channel.unary_unary(f"/headway.v1.{method}", raw, raw)
                    try:
                        await call(mutated(valid.SerializeToString(), chance), timeout=20)
                    except grpc.aio.AioRpcError as error:
                        found.append(error.code())
        stop.set()
        assert await beside >= 1
        assert set(found) <= HARMLESS
        assert found.count(grpc.StatusCode.INVALID_ARGUMENT) > TRIES / 10
        assert found.count(grpc.StatusCode.OK) > TRIES / 10
        await eventually(lambda: nothing_left(engine))


@pytest.mark.parametrize(
    "method", ["Engine/Generate", "Engine/Abort", "EngineControl/UpdateRuntimeConfig", "EngineControl/Drain"]
)
async def test_bytes_that_are_no_message_are_refused_naming_the_method(method: str) -> None:
    async with running() as (_, data, control):
        channel = data if method.startswith("Engine/") else control
        streams = method in ("Engine/Generate", "EngineControl/Drain")
        kind = channel.unary_stream if streams else channel.unary_unary
        call = kind(f"/headway.v1.{method}", raw, raw)(b"\xff\xff\xff", timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call.read() if streams else call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == f"a message of 3 bytes cannot be parsed as what /headway.v1.{method} takes"


Sampling = pb.SamplingParams
MOST = 2**32 - 1


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(text="a", sampling_params=Sampling(temperature=math.nan)), "sampling_params.temperature"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(temperature=-1)), "sampling_params.temperature"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(top_p=math.inf)), "sampling_params.top_p"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(max_tokens=MOST)), "sampling_params.max_tokens"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(logprobs=MOST)), "sampling_params.logprobs"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(stop=[""])), "sampling_params.stop[0]"),
        (
            pb.GenerateRequest(text="a", sampling_params=Sampling(stop_token_ids=[MOST])),
            "sampling_params.stop_token_ids",
        ),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(logit_bias={MOST: 1})), "sampling_params.logit_bias"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(json_schema="{")), "sampling_params.json_schema"),
        (pb.GenerateRequest(text="a", sampling_params=Sampling(choice=pb.Choices())), "sampling_params.choice"),
        (pb.GenerateRequest(text="a", request_id="x" * 900_000), "request_id"),
        (pb.GenerateRequest(text="a", cache_salt="x" * 900_000), "cache_salt"),
        (pb.GenerateRequest(text="a", model="other"), "model"),
        (pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[MOST])), "input_ids[0]"),
        (pb.GenerateRequest(tokenized=pb.TokenizedInput()), "input_ids"),
        (pb.GenerateRequest(), "input"),
    ],
)
async def test_a_hostile_value_is_refused_naming_its_field(message: pb.GenerateRequest, field: str) -> None:
    async with running() as (engine, data, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.unary_stream("/headway.v1.Engine/Generate", raw, raw)(message.SerializeToString()).read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(field)
        assert nothing_left(engine)


async def test_an_unknown_field_and_a_repeated_one_change_nothing() -> None:
    async with running() as (_, data, _):
        twice = pb.GenerateRequest(text="other").SerializeToString() + pb.GenerateRequest(text="hi").SerializeToString()
        unknown = b"\xfa\x7f\x03abc"  # field 2047
        call = data.unary_stream("/headway.v1.Engine/Generate", raw, pb.GenerateResponse.FromString)
        answer = [one async for one in call(twice + unknown, timeout=20)]
        assert answer[-1].complete.prompt_tokens == len(b"hi")


async def test_a_command_that_is_no_message_ends_its_own_mux_stream_only() -> None:
    async with running() as (engine, data, _):
        stop = asyncio.Event()
        beside = asyncio.create_task(neighbour(data, stop))
        fuzzed = data.stream_stream("/headway.v1.Engine/GenerateMux", raw, pb.StepBatch.FromString)
        good = pb.MuxRequest(generate=pb.GenerateRequest(request_id="a", text="hi"))
        messages = [good.SerializeToString(), b"\xff\xff"]
        assert await status(lambda: fuzzed(messages, timeout=20)) is grpc.StatusCode.INVALID_ARGUMENT
        stop.set()
        assert await beside >= 1
        await eventually(lambda: nothing_left(engine))


@pytest.mark.parametrize("seed", range(2))
async def test_mutated_commands_of_a_mux_stream_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    valid = pb.MuxRequest(generate=VALID)
    valid.generate.request_id = "r"
    async with running() as (engine, data, _):
        stop = asyncio.Event()
        beside = asyncio.create_task(neighbour(data, stop))
        found = []
        fuzzed = data.stream_stream("/headway.v1.Engine/GenerateMux", raw, pb.StepBatch.FromString)
        for _ in range(30):
            messages = [mutated(valid.SerializeToString(), chance) for _ in range(12)]
            # gRPC's client calls it an INTERNAL error when it is still writing to a call that has ended, so a message
            # that ends the call comes last.
            messages = [*filter(is_readable, messages), *itertools.filterfalse(is_readable, messages[:1])]
            found.append(await status(lambda messages=messages: fuzzed(messages, timeout=20)))
        stop.set()
        assert await beside >= 1
        assert set(found) <= HARMLESS
        await eventually(lambda: nothing_left(engine))
