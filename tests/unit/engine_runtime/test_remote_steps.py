"""The engine with its steps in a process of their own: a real process, with a scripted executor in place of a model."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_engine_client import eventually, read, request, submitted
from fake_engine_model import ScriptedExecutor, config, loaded
from virtual_time import jump, run_virtual

from headway_engine.core.constraint import ConstraintKind, ConstraintSpec
from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.request import FinishReason, Rejected, SamplingParams, StatusCode
from headway_engine.runtime import step_process
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel
from headway_engine.runtime.loop import STUCK_AFTER_S
from headway_engine.runtime.remote_steps import RemoteSteps, Silence

WORDS = (b"first answer", b"second")
ROOT = Path(__file__).parents[3]  # this module is named from there


def scripted(answers: tuple[bytes, ...], _config: EngineConfig) -> LoadedModel:
    """Loaded in the step process, which imports this module."""
    return loaded(ScriptedExecutor(answers))


def stuck(_config: EngineConfig) -> LoadedModel:
    """A model whose first step never ends."""
    executor = ScriptedExecutor(WORDS)
    executor.hold()
    return loaded(executor)


def refusing(_config: EngineConfig) -> LoadedModel:
    raise ModelLoadError("weights.gguf: cut off")


def short_of_memory(_config: EngineConfig) -> LoadedModel:
    executor = ScriptedExecutor(WORDS)
    executor.begin_error = MemoryError("no room for the graphs")
    return loaded(executor)


def dying(_config: EngineConfig) -> LoadedModel:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@contextlib.asynccontextmanager
async def serving(load: object = partial(scripted, WORDS), **limits: int) -> AsyncIterator[AsyncEngine]:
    engine = await AsyncEngine.start(config(**limits), load)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        await engine.stop()


def pid_of(engine: AsyncEngine) -> int:
    assert isinstance(engine._steps, RemoteSteps)
    return engine._steps._process.pid


async def test_answers_and_figures_come_from_the_other_process() -> None:
    async with serving() as engine:
        assert pid_of(engine) != os.getpid()
        streams = [await submitted(engine, request(f"r{n}", SamplingParams(seed=n))) for n in range(6)]
        answers = [await read(stream) for stream in streams]
        assert [text for text, _, _ in answers] == ["first answer", "second"] * 3
        assert {finished.reason for _, _, finished in answers} == {FinishReason.STOP}
        stats = engine.stats()
        assert (stats.requests_received, stats.requests_finished) == (6, {"stop": 6})
        assert stats.generation_tokens == sum(len(finished.output_ids) for _, _, finished in answers)
        assert stats.loads.num_total == stats.loads.used_tokens == stats.loads.waiting_prompt_tokens == 0


async def test_limits_change_there_and_a_wrong_revision_is_refused() -> None:
    async with serving() as engine:
        before = engine.runtime_config()
        changed = await engine.update_limits(LimitsPatch(max_num_seqs=3), 60, before.revision)
        assert isinstance(changed, RuntimeConfigState)
        assert changed.effective.max_num_seqs == engine.runtime_config().effective.max_num_seqs == 3
        refused = await engine.update_limits(LimitsPatch(max_num_seqs=4), 60, before.revision)
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.ABORTED


async def test_forms_are_compiled_there_and_a_bad_one_is_refused_here() -> None:
    def asking(name: str, expression: str) -> SamplingParams:
        return SamplingParams(seed=0, constraint=ConstraintSpec(ConstraintKind.REGEX, expression))

    async with serving() as engine:
        text, _, finished = await read(await submitted(engine, request("good", asking("good", "first answer"))))
        assert (text, finished.reason) == ("first answer", FinishReason.STOP)
        refused = await engine.submit(request("bad", asking("bad", "(")))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.INVALID_ARGUMENT
        assert "regex" in refused.message
        # The script's answer is not of this form, which only the executor's mask could have prevented.
        _, _, broken = await read(await submitted(engine, request("other", asking("other", "[0-9]+"))))
        assert broken.reason is FinishReason.ERROR


async def test_a_caller_that_goes_away_while_its_form_is_compiled_leaves_nothing() -> None:
    async with serving() as engine:
        spec = ConstraintSpec(ConstraintKind.REGEX, "a+")
        submission = asyncio.create_task(engine.submit(request("gone", SamplingParams(constraint=spec))))
        await eventually(lambda: engine.loads().num_total == 1)
        submission.cancel()
        await asyncio.wait([submission])
        assert await engine.wait_idle(60)
        text, _, _ = await read(await submitted(engine, request("gone", SamplingParams(seed=1))))
        assert text == "second"


async def test_stop_ends_what_is_in_flight_with_abort_and_the_process() -> None:
    engine = await AsyncEngine.start(config(max_num_seqs=1), partial(scripted, (b"x" * 100_000,)))
    streams = [await submitted(engine, request(f"r{n}")) for n in range(3)]
    await engine.stop()
    reasons = {(await read(stream))[2].reason for stream in streams}
    assert reasons <= {FinishReason.ABORT, FinishReason.LENGTH}
    assert FinishReason.ABORT in reasons
    assert not _exists(pid_of(engine))
    assert isinstance(await engine.submit(request("late")), Rejected)


async def test_a_killed_step_process_ends_every_stream_and_fails_health() -> None:
    async with serving(stuck) as engine:
        streams = [await submitted(engine, request(name)) for name in ("a", "b")]
        os.kill(pid_of(engine), signal.SIGKILL)
        ends = [(await read(stream))[2] for stream in streams]
        assert {end.reason for end in ends} == {FinishReason.ERROR}
        assert all("killed by SIGKILL; out of memory?" in end.error for end in ends)
        assert not engine.health().alive
        assert "SIGKILL" in engine.health().detail
        assert isinstance(await engine.submit(request("c")), Rejected)
        refused = await engine.update_limits(LimitsPatch(max_num_seqs=3), 60, None)
        assert isinstance(refused, Rejected)


def test_silence_counts_only_while_the_loop_is_awake() -> None:
    async def seconds(asleep_s: float) -> float:
        silence = Silence()
        counting = asyncio.create_task(silence.count())
        await asyncio.sleep(10.5)
        jump(asleep_s)
        await asyncio.sleep(20)
        counting.cancel()
        return silence.seconds

    assert run_virtual(seconds(0)) == 30
    assert run_virtual(seconds(3600)) <= 31


async def test_a_step_process_that_says_nothing_is_trouble_until_it_speaks_again() -> None:
    async with serving() as engine:
        steps = engine._steps
        assert isinstance(steps, RemoteSteps)
        assert steps.trouble(time.monotonic() + 3600) is None
        steps._silence.seconds = STUCK_AFTER_S + 1
        assert "has said nothing for 31 s" in str(steps.trouble(0.0))
        await eventually(lambda: engine.health().alive)


async def test_requests_that_run_free_the_queue_before_their_first_step_ends() -> None:
    async with serving(stuck, max_num_seqs=1, max_queued_requests=1) as engine:
        first = await submitted(engine, request("a"))
        await eventually(lambda: engine.loads().num_running == 1)
        waiting = await submitted(engine, request("b"))
        refused = await engine.submit(request("c"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.RESOURCE_EXHAUSTED
        os.kill(pid_of(engine), signal.SIGKILL)
        assert {(await read(stream))[2].reason for stream in (first, waiting)} == {FinishReason.ERROR}


async def test_why_a_model_cannot_be_loaded_arrives_here() -> None:
    with pytest.raises(ModelLoadError, match=r"weights\.gguf: cut off"):
        await AsyncEngine.start(config(), refusing)
    with pytest.raises(ModelLoadError, match="was killed by SIGKILL"):
        await AsyncEngine.start(config(), dying)


async def test_an_executor_that_cannot_begin_is_a_model_that_cannot_be_loaded() -> None:
    before = _children()
    with pytest.raises(ModelLoadError, match="MemoryError: no room for the graphs"):
        await AsyncEngine.start(config(), short_of_memory)
    await eventually(lambda: _children() <= before)


async def test_who_gives_up_while_the_model_loads_leaves_no_process() -> None:
    before = _children()
    starting = asyncio.create_task(AsyncEngine.start(config(), partial(scripted, WORDS)))
    await eventually(lambda: _children() > before)
    [child] = _children() - before
    starting.cancel()
    await asyncio.wait([starting])
    assert not _exists(child)


def test_the_step_process_ends_with_its_front() -> None:
    program = f"""
import asyncio, os, sys
sys.path[:0] = {sys.path!r}
from functools import partial
from fake_engine_model import config
from headway_engine.runtime.engine import AsyncEngine
from {__name__} import scripted, pid_of

async def main():
    engine = await AsyncEngine.start(config(), partial(scripted, (b"x",)))
    print(pid_of(engine), flush=True)
    os._exit(3)  # as a kill would: nothing is closed in order

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    # The pipe ends when the last process that holds it has ended: the step process inherits it.
    front = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, timeout=60, check=False)
    assert front.returncode == 3
    assert not _exists(int(front.stdout))


def test_a_front_that_ends_with_frames_unread_ends_the_step_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", sys.exit)
    front, steps = socket.socketpair()
    steps.sendall(b"a frame")
    front.close()
    with steps, steps.makefile("rb") as messages, pytest.raises(SystemExit) as ended:
        step_process._next(messages)
    assert ended.value.code == 0


def test_a_stop_on_the_heels_of_ready_waits_for_what_was_asked_before_it() -> None:
    frames: list[bytes] = []
    at_the_end: list[int] = []

    class Connection:
        def sendall(self, frame: bytes) -> None:
            frames.append(frame)
            if len(frames) == 1:  # the front has Ready before anything else has happened here
                stop.start()
                stop.join(0.1)  # for as long as it can get on

    def close() -> None:
        outbox.close()
        at_the_end.append(len(frames))

    stop = threading.Thread(target=close)
    outbox = step_process._Outbox(cast("Any", Connection()))
    outbox.open(cast("Any", SimpleNamespace(state=None, trouble=lambda _now: None)), cast("Any", "ready"))
    stop.join()
    assert at_the_end == [2]


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
