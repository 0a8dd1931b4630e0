"""The engine's process from outside: ports, logs, signals, exit codes; with the fake engine, so no model is loaded."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest
from engine_processes import FAKES, engine

from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError


async def test_sigterm_lets_every_stream_finish_refuses_new_calls_and_exits_0() -> None:
    async with engine("fake") as running, EngineClient(running.address) as client:
        await running.log_until("ready")
        assert await running.probe("/readyz") == 200
        started = [asyncio.Event() for _ in range(20)]

        async def stream(index: int) -> list[int]:
            request = pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=1000))
            async for message in client.generate(request):
                started[index].set()
                if isinstance(message, pb.GenerateComplete):
                    return list(message.output_ids)
            return []

        streams = [asyncio.create_task(stream(index)) for index in range(20)]
        await asyncio.gather(*(event.wait() for event in started))
        running.process.send_signal(signal.SIGTERM)
        await running.log_until("draining")
        with pytest.raises(EngineError) as refused:
            await anext(client.generate(pb.GenerateRequest(text="x")))
        assert refused.value.code == grpc.StatusCode.UNAVAILABLE
        assert await running.probe("/readyz") == 503
        assert await running.probe("/healthz") == 200
        assert [len(answer) for answer in await asyncio.gather(*streams)] == [1000] * 20
        stopped = await running.log_until("stopped")
        assert stopped["clean"] is True
        assert await running.process.wait() == 0


async def test_streams_that_outlast_the_drain_timeout_end_with_abort() -> None:
    async with engine("fake", "--drain-timeout-seconds", "0") as running, EngineClient(running.address) as client:
        await running.log_until("ready")
        answer = client.generate(pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=2000)))
        await anext(answer)
        running.process.send_signal(signal.SIGTERM)
        last = [message async for message in answer][-1]
        assert isinstance(last, pb.GenerateComplete)
        assert last.finish_reason == pb.ABORT
        assert await running.process.wait() == 0


async def test_a_second_sigterm_ends_the_process_at_once() -> None:
    async with engine("fake") as running, EngineClient(running.address) as client:
        await running.log_until("ready")
        answer = client.generate(pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=2000)))
        await anext(answer)
        running.process.send_signal(signal.SIGTERM)
        await running.log_until("draining")
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 128 + signal.SIGTERM


async def test_while_the_model_loads_probes_say_so_and_sigterm_ends_with_0() -> None:
    async with engine("endless") as running:
        assert await running.probe("/readyz") == 503
        assert await running.probe("/healthz") == 200
        assert await running.probe("/metrics") == 200
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


async def test_when_its_step_process_is_killed_every_stream_is_told_and_the_process_ends_so_that_it_is_started_again() -> (
    None
):
    async with engine("paced") as running, EngineClient(running.address) as client:
        await running.log_until("ready")
        request = pb.GenerateRequest(text="x", sampling_params=pb.SamplingParams(max_tokens=100, ignore_eos=True))
        answers = [client.generate(request) for _ in range(3)]
        for answer in answers:
            await anext(answer)
        os.kill(_only_child(running.process.pid), signal.SIGKILL)
        for answer in answers:
            last = [message async for message in answer][-1]
            assert isinstance(last, pb.GenerateComplete)
            assert last.finish_reason == pb.ERROR
            assert "SIGKILL" in last.error
        await running.log_until("the step process was killed by SIGKILL; out of memory?")
        assert await running.process.wait() == 4


async def test_a_model_that_cannot_be_loaded_is_exit_3_with_one_line_naming_file_and_cause() -> None:
    async with engine("broken.gguf") as running:
        await running.log_until("/models/broken.gguf: not a GGUF file")
        assert await running.process.wait() == 3


async def test_a_bad_setting_is_exit_2_naming_flag_and_bound() -> None:
    with pytest.raises(AssertionError, match="ended without"):
        async with engine("fake", "--block-size", "0"):
            pass
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headway_engine", "--model", "m", "--block-size", "0", stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert json.loads(err)["message"] == "--block-size must be between 1 and 1024, got 0"


async def test_a_port_in_use_is_exit_2_naming_the_flag() -> None:
    async with engine("fake") as running:
        port = str(running.ports["port"])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(FAKES / "serve_fake_engine.py"), "--model", "fake", "--host", "127.0.0.1"),
            *("--port", port, "--control-port", "0", "--http-port", "0"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert process.returncode == 2
        assert f"--port: cannot listen on 127.0.0.1:{port}" in err.decode()
