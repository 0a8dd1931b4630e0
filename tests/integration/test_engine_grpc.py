"""The engine's server on loopback: real gRPC and HTTP around an engine whose steps the test makes."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from fake_async_engine import FakeAsyncEngine
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headway_engine.server.grpc_ports import CONTROL_SERVICE, DATA_SERVICE, GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_rpc import EngineControlStub, EngineStub, pb
from headway_rpc.client import EngineClient, EngineError


@dataclass
class Served:
    engine: FakeAsyncEngine
    lifecycle: Lifecycle
    ports: GrpcPorts
    client: EngineClient
    data: grpc.aio.Channel
    control: grpc.aio.Channel

    @property
    def stub(self) -> EngineStub:
        return EngineStub(self.data)

    @property
    def control_stub(self) -> EngineControlStub:
        return EngineControlStub(self.control)


@pytest.fixture
async def unloaded() -> AsyncIterator[Served]:
    settings = parse(["--model", "/m/fake.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"], {})
    lifecycle = Lifecycle()
    ports = GrpcPorts(settings, lifecycle)
    await ports.start()
    data_address = f"127.0.0.1:{ports.data_port}"
    async with (
        EngineClient(data_address) as client,
        grpc.aio.insecure_channel(data_address) as data,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.control_port}") as control,
    ):
        yield Served(FakeAsyncEngine(), lifecycle, ports, client, data, control)
    await ports.stop(0)


@pytest.fixture
async def served(unloaded: Served) -> Served:
    unloaded.lifecycle.loaded(unloaded.engine)
    return unloaded


def request(request_id: str = "", max_tokens: int = 3, first: int = 10) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=[first]),
        sampling_params=pb.SamplingParams(max_tokens=max_tokens),
    )


async def test_generate_streams_one_message_per_step_and_ends_with_complete(served: Served) -> None:
    answer = served.client.generate(request())
    first = asyncio.ensure_future(anext(answer))
    await served.engine.until(lambda: served.engine.open)
    served.engine.step()
    assert list((await first).token_ids) == [11]
    served.engine.step()
    served.engine.step()
    chunk, complete = [message async for message in answer]
    assert (list(chunk.token_ids), chunk.text) == ([12], "t12 ")
    assert isinstance(complete, pb.GenerateComplete)
    assert list(complete.output_ids) == [11, 12, 13]
    assert complete.text == "t13 "
    assert complete.finish_reason == pb.LENGTH
    assert (complete.prompt_tokens, complete.completion_tokens) == (1, 3)
    assert (complete.queue_ms, complete.ttft_ms) == (1.5, 2.5)


BAD_REQUESTS = {
    "input": pb.GenerateRequest(),
    "text": pb.GenerateRequest(text=""),
    "input_ids": pb.GenerateRequest(tokenized=pb.TokenizedInput()),
    "2047": pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[1] * 2048)),
    "max_tokens": pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=0)),
    "temperature": pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(temperature=math.nan)),
    "top_p": pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(top_p=0)),
    "stop_token_ids[0]": pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(stop_token_ids=[999999])),
    "model must be empty or 'fake'": pb.GenerateRequest(text="x", model="gpt"),
    "priority": pb.GenerateRequest(text="x", priority=77),
    "request_id": pb.GenerateRequest(text="x", request_id="i" * 257),
}


@pytest.mark.parametrize("names", BAD_REQUESTS)
async def test_a_bad_request_is_invalid_argument_naming_the_field_and_reaches_no_queue(
    served: Served, names: str
) -> None:
    with pytest.raises(EngineError) as refused:
        await anext(served.client.generate(BAD_REQUESTS[names]))
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert names in refused.value.message
    assert served.engine.submitted == []


async def test_a_full_queue_is_resource_exhausted_with_a_retry_hint(served: Served) -> None:
    served.engine.queue_bound = 0
    with pytest.raises(EngineError) as refused:
        await anext(served.client.generate(request()))
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.retry_after_ms == 250


async def test_before_the_model_is_loaded_calls_are_unavailable_and_health_not_serving(unloaded: Served) -> None:
    with pytest.raises(EngineError) as refused:
        await anext(unloaded.client.generate(request()))
    assert refused.value.code == grpc.StatusCode.UNAVAILABLE
    assert await _health(unloaded.data, DATA_SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError, match="loading"):
        await unloaded.control_stub.GetStats(pb.GetStatsRequest())


async def test_health_follows_the_phase_and_the_control_port_serves_while_draining(served: Served) -> None:
    assert await _health(served.data, DATA_SERVICE) == health_pb2.HealthCheckResponse.SERVING
    served.lifecycle.start_drain()
    assert await _health(served.data, "") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await _health(served.control, CONTROL_SERVICE) == health_pb2.HealthCheckResponse.SERVING


async def test_the_clients_deadline_becomes_the_requests_deadline(served: Served) -> None:
    call = served.stub.Generate(request(max_tokens=1000), timeout=100.0)
    await served.engine.until(lambda: bool(served.engine.submitted))
    (admitted,) = served.engine.submitted
    assert admitted.deadline_s is not None
    # gRPC sends whole units of time, rounded up.
    assert 0 < admitted.deadline_s - admitted.arrival_s <= 101.0
    call.cancel()
    await served.engine.until(lambda: not served.engine.open)


async def test_a_call_that_is_too_late_ends_and_leaves_no_stream(served: Served) -> None:
    with pytest.raises(EngineError) as ended:
        await anext(served.client.generate(request(), timeout_s=0.05))
    assert ended.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    await served.engine.until(lambda: not served.engine.open)


async def test_clients_that_leave_at_random_points_leak_no_stream(served: Served) -> None:
    rng = random.Random(3)
    engine = served.engine

    async def visit(steps: int) -> None:
        answer = served.client.generate(request(max_tokens=1000))
        for _ in range(steps):
            await anext(answer)
        await answer.aclose()

    async def leave_before_anything() -> None:
        call = served.stub.Generate(request(max_tokens=1000))
        await asyncio.sleep(0)
        call.cancel()

    visits = [visit(rng.randrange(1, 8)) for _ in range(60)] + [leave_before_anything() for _ in range(20)]
    rng.shuffle(visits)
    ticking = asyncio.create_task(_tick(engine))
    await asyncio.gather(*visits)
    await engine.until(lambda: not engine.open)
    ticking.cancel()
    assert all(stream.cancelled for stream in engine.streams)
    assert await served.ports.data.wait_closed(5)


async def test_a_client_that_leaves_while_its_request_is_being_admitted_leaks_no_stream(served: Served) -> None:
    served.engine.submit_gate = asyncio.Event()
    call = served.stub.Generate(request())
    reading = asyncio.ensure_future(call.read())
    await served.engine.until(lambda: served.engine.submits == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await served.ports.data.wait_closed(5)
    served.engine.submit_gate.set()
    await served.engine.until(lambda: served.engine.streams and served.engine.streams[0].cancelled)
    assert not served.engine.open


async def test_a_step_reaches_a_mux_client_as_one_frame(served: Served) -> None:
    call = served.stub.GenerateMux()
    for index in range(20):
        await call.write(pb.MuxRequest(generate=request(f"r{index}", first=100 + index)))
    await served.engine.until(lambda: len(served.engine.open) == 20)
    served.engine.step()
    frames = aiter(call)
    frame = await anext(frames)
    assert [r.request_id for r in frame.responses] == [f"r{index}" for index in range(20)]
    assert [list(r.chunk.token_ids) for r in frame.responses] == [[101 + index] for index in range(20)]
    served.engine.step()
    served.engine.step()
    await call.done_writing()
    assert {r.request_id async for frame in frames for r in frame.responses if r.HasField("complete")} == {
        f"r{index}" for index in range(20)
    }
    assert await call.code() == grpc.StatusCode.OK


async def test_items_of_a_mux_client_that_does_not_read_coalesce_per_request(served: Served) -> None:
    call = served.stub.GenerateMux()
    await call.write(pb.MuxRequest(generate=request("slow", max_tokens=2000, first=1)))
    await served.engine.until(lambda: served.engine.open)
    for _ in range(2000):
        served.engine.step()
    await call.done_writing()
    frames = [frame async for frame in call]
    (last,) = frames[-1].responses
    assert len(frames) < 100
    assert list(last.complete.output_ids) == list(range(2, 2002))
    texts = [r.chunk.text for f in frames for r in f.responses if r.HasField("chunk")] + [last.complete.text]
    assert "".join(texts) == "".join(f"t{token} " for token in range(2, 2002))


async def test_mux_refuses_one_request_and_serves_the_others(served: Served) -> None:
    async with served.client.mux() as mux:
        bad = mux.generate(request("bad", max_tokens=0))
        with pytest.raises(EngineError, match="max_tokens") as refused:
            await anext(bad)
        assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
        good = asyncio.ensure_future(_collect(mux.generate(request("good", max_tokens=1))))
        await served.engine.until(lambda: served.engine.open)
        served.engine.step()
        (complete,) = await good
        assert list(complete.output_ids) == [11]


async def test_abort_ends_a_mux_request_with_abort_and_leaving_early_aborts_it(served: Served) -> None:
    async with served.client.mux() as mux:
        first = asyncio.ensure_future(_collect(mux.generate(request("a", max_tokens=100))))
        await served.engine.until(lambda: served.engine.open)
        assert (await served.stub.Abort(pb.AbortRequest(request_ids=["a", "unknown"]))).aborted == 1
        assert (await first)[-1].finish_reason == pb.ABORT
        second = mux.generate(request("b", max_tokens=100))
        reading = asyncio.ensure_future(anext(second))
        await served.engine.until(lambda: served.engine.open)
        served.engine.step()
        await reading
        await second.aclose()
        await served.engine.until(lambda: not served.engine.open)


async def test_a_mux_client_that_leaves_cancels_all_its_requests(served: Served) -> None:
    call = served.stub.GenerateMux()
    for index in range(10):
        await call.write(pb.MuxRequest(generate=request(f"r{index}", max_tokens=1000)))
    await served.engine.until(lambda: len(served.engine.open) == 10)
    call.cancel()
    await served.engine.until(lambda: not served.engine.open)
    assert await served.ports.data.wait_closed(5)


async def test_a_drain_finishes_streams_refuses_new_ones_and_closes_idle_mux_calls(served: Served) -> None:
    async with served.client.mux() as mux:
        answer = asyncio.ensure_future(_collect(mux.generate(request("a", max_tokens=2))))
        await served.engine.until(lambda: served.engine.open)
        progress = aiter(served.control_stub.Drain(pb.DrainRequest()))
        assert (await anext(progress)).in_flight == 1
        with pytest.raises(EngineError) as refused:
            await anext(served.client.generate(request()))
        assert refused.value.code == grpc.StatusCode.UNAVAILABLE
        assert not served.lifecycle.ready()[0]
        served.engine.step()
        served.engine.step()
        assert (await answer)[-1].finish_reason == pb.LENGTH
        last = [item async for item in progress][-1]
        assert (last.in_flight, last.done) == (0, True)
        assert await served.ports.data.wait_closed(5)


async def test_limits_change_by_lease_and_the_answers_name_what_is_wrong(served: Served) -> None:
    stub = served.control_stub
    before = await stub.GetRuntimeConfig(pb.GetRuntimeConfigRequest())
    assert (before.revision, before.effective.max_num_seqs, before.envelope.max_num_seqs.max) == (1, 64, 64)
    changed = await stub.UpdateRuntimeConfig(
        pb.UpdateRuntimeConfigRequest(expected_revision=1, limits=pb.Limits(max_num_seqs=8), lease_seconds=30)
    )
    assert (changed.revision, changed.effective.max_num_seqs, changed.baseline.max_num_seqs) == (2, 8, 64)
    assert 0 < changed.lease_remaining_seconds <= 30
    for wrong, code, names in (
        (pb.UpdateRuntimeConfigRequest(), grpc.StatusCode.INVALID_ARGUMENT, "limits"),
        (
            pb.UpdateRuntimeConfigRequest(limits=pb.Limits(max_num_seqs=65)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "max_num_seqs is 65, the envelope allows 1 to 64",
        ),
        (
            pb.UpdateRuntimeConfigRequest(expected_revision=1, limits=pb.Limits(max_num_seqs=9)),
            grpc.StatusCode.ABORTED,
            "revision is 2",
        ),
        (
            pb.UpdateRuntimeConfigRequest(limits=_with_unknown_mode()),
            grpc.StatusCode.INVALID_ARGUMENT,
            "limits.batching_mode is 9, it must be one of continuous, static, dynamic, adaptive",
        ),
        (
            pb.UpdateRuntimeConfigRequest(limits=pb.Limits(profile=pb.PROFILE_UNSPECIFIED)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "limits.profile is 0, it must be one of throughput, low-tail",
        ),
        (
            pb.UpdateRuntimeConfigRequest(limits=pb.Limits(itl_target_ms=0)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "limits.itl_target_ms is 0, the envelope allows 1 to 60000",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=names) as refused:
            await stub.UpdateRuntimeConfig(wrong)
        assert refused.value.code() == code


def _with_unknown_mode() -> pb.Limits:
    """A mode of a newer version, as it arrives: enums are open."""
    return pb.Limits.FromString(b"\x28\x09")


async def test_mode_and_profile_change_live(served: Served) -> None:
    stub = served.control_stub
    before = await stub.GetRuntimeConfig(pb.GetRuntimeConfigRequest())
    assert (before.effective.batching_mode, before.effective.profile, before.effective.itl_target_ms) == (
        pb.BATCHING_MODE_CONTINUOUS,
        pb.PROFILE_THROUGHPUT,
        50,
    )
    wanted = pb.Limits(batching_mode=pb.BATCHING_MODE_ADAPTIVE, profile=pb.PROFILE_LOW_TAIL, itl_target_ms=20)
    after = await stub.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest(limits=wanted))
    assert (after.effective.batching_mode, after.effective.profile, after.effective.itl_target_ms) == (
        pb.BATCHING_MODE_ADAPTIVE,
        pb.PROFILE_LOW_TAIL,
        20,
    )
    assert after.effective.max_num_seqs == before.effective.max_num_seqs


async def test_stats_carry_counters_histograms_and_the_config(served: Served) -> None:
    served.engine.ttft.record(25.0)
    stats = await served.control_stub.GetStats(pb.GetStatsRequest())
    assert (stats.boot_id, stats.ttft.count, stats.ttft.sum_ms) == ("boot-1", 1, 25.0)
    assert (stats.prompt_tokens, stats.generation_tokens, stats.preemptions, stats.steps) == (11, 22, 3, 4)
    assert stats.cached_prompt_tokens == 7
    assert dict(stats.requests_rejected) == {"queue_full": 1}
    assert stats.config.effective.max_num_batched_tokens == 2048
    (one,) = stats.classes
    assert (one.workload_class, one.ttft.count, one.itl.count, one.requests_finished) == (pb.PRIORITY_REALTIME, 1, 0, 2)


async def test_a_wait_that_cannot_have_been_is_refused(served: Served) -> None:
    forged = request()
    forged.waited_ms = 2**32 - 1  # it would be the age of a first token, and the objective would seem to burn
    with pytest.raises(EngineError, match="waited_ms is 4294967295, it must be at most 604800000") as refused:
        await anext(served.client.generate(forged))
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_oversized_message_is_refused_and_the_next_call_succeeds(served: Served) -> None:
    with pytest.raises(EngineError) as refused:
        await anext(served.client.generate(pb.GenerateRequest(text="x" * (2 << 20))))
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await served.client.model_info()).model == "fake"


async def _collect(answer: "AsyncIterator[pb.GenerateChunk | pb.GenerateComplete]") -> list[pb.GenerateComplete]:
    return [message async for message in answer]


async def _health(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def _tick(engine: FakeAsyncEngine) -> None:
    while True:
        engine.step()
        await asyncio.sleep(0.001)
