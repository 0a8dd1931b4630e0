"""Old connections to the data port: they take no new calls, and lose no stream."""

import grpc
import grpc.aio
import pytest
from fake_async_engine import FakeAsyncEngine

from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse
from headway_rpc import EngineStub, pb

ARGV = ["--model", "/m/fake.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]


def request(request_id: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request_id=request_id,
        tokenized=pb.TokenizedInput(input_ids=[10]),
        sampling_params=pb.SamplingParams(max_tokens=3),
    )


@pytest.mark.parametrize("mux", [False, True], ids=["Generate", "GenerateMux"])
async def test_an_old_connection_ends_its_stream_and_the_next_call_connects_anew(mux: bool) -> None:
    lifecycle, engine = Lifecycle(), FakeAsyncEngine()
    ports = GrpcPorts(parse([*ARGV, "--max-connection-age-seconds", "1"], {}), lifecycle)
    lifecycle.loaded(engine)
    await ports.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.data_port}") as channel:
            stub = EngineStub(channel)
            if mux:
                many = stub.GenerateMux()
                await many.write(pb.MuxRequest(generate=request("a")))
            else:
                one = stub.Generate(request("a"))
            await engine.until(lambda: engine.open)
            engine.step()
            # The GOAWAY: the channel has no connection for new calls any more.
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            assert channel.get_state() is not grpc.ChannelConnectivity.READY
            engine.step()
            engine.step()
            if mux:
                await many.done_writing()
                answers = [answer async for batch in many for answer in batch.responses]
                complete = answers[-1].complete
            else:
                complete = [message async for message in one][-1].complete
            assert list(complete.output_ids) == [11, 12, 13]
            assert (await stub.GetModelInfo(pb.GetModelInfoRequest())).model == "fake"
    finally:
        await ports.stop(0)
