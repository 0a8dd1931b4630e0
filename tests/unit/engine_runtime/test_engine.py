import asyncio
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from fake_engine_client import eventually, nothing_left, read, request, running, submitted
from fake_engine_model import EOS, ScriptedExecutor, config, loaded

from headway_engine.core.batch import Chunk, DeviceLostError, StepResult
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.limits import LimitsPatch
from headway_engine.core.logprobs import Candidate, TokenLogprobs
from headway_engine.core.request import (
    FinishReason,
    Rejected,
    Request,
    RequestId,
    SamplingParams,
    StatusCode,
)
from headway_engine.runtime.engine import AsyncEngine


async def test_an_answer_is_streamed_and_ends_with_its_figures() -> None:
    async with running(ScriptedExecutor((b"hello",))) as engine:
        text, tokens, finished = await read(await submitted(engine, request("a")))
        assert text == "hello"
        assert tokens == [*b"hello", EOS]
        assert finished.reason is FinishReason.STOP
        assert finished.output_ids == tuple(tokens)
        assert finished.prompt_tokens == 2
        assert 0 <= finished.queue_ms <= finished.ttft_ms
        assert await engine.wait_idle(60)
        assert nothing_left(engine)


async def test_the_answer_ends_at_max_tokens_and_at_the_context_length() -> None:
    executor = ScriptedExecutor((b"x" * 500,))
    async with running(executor, model=loaded(executor, max_model_len=20)) as engine:
        short = await read(await submitted(engine, request("a", SamplingParams(seed=0, max_tokens=3))))
        longest = await read(await submitted(engine, request("b", SamplingParams(seed=0))))
        assert (short[0], short[2].reason) == ("xxx", FinishReason.LENGTH)
        assert (longest[0], longest[2].reason) == ("x" * 18, FinishReason.LENGTH)


async def test_ignore_eos_goes_on_to_max_tokens() -> None:
    async with running(ScriptedExecutor((b"ab",))) as engine:
        sampling = SamplingParams(seed=0, ignore_eos=True, max_tokens=5)
        text, tokens, finished = await read(await submitted(engine, request("a", sampling)))
        assert (text, tokens, finished.reason) == ("ab", [*b"ab", EOS, EOS, EOS], FinishReason.LENGTH)


async def test_a_stop_token_ends_the_answer_and_is_not_part_of_its_text() -> None:
    async with running(ScriptedExecutor((b"abc",))) as engine:
        sampling = SamplingParams(seed=0, stop_token_ids=(ord("c"),))
        text, tokens, finished = await read(await submitted(engine, request("a", sampling)))
        assert (text, tokens, finished.reason) == ("ab", [*b"abc"], FinishReason.STOP)


async def test_each_token_comes_with_its_candidates_as_text_up_to_where_a_stop_string_ends_the_answer() -> None:
    class Scoring(ScriptedExecutor):
        def _sample(self, chunk: Chunk) -> StepResult:
            token = super()._sample(chunk)
            assert isinstance(token, int)
            return TokenLogprobs(Candidate(token, -0.5), (Candidate(token, -0.5), Candidate(ord("?"), -1.5)))

    async with running(Scoring((b"abSTOPcd",))) as engine:
        stream = await submitted(engine, request("a", SamplingParams(seed=0, logprobs=2, stop=("STOP",))))
        found = [one async for item in stream for one in item.logprobs]
    assert [one.chosen.text for one in found] == [*"abSTOP"]
    assert [[best.text for best in one.top] for one in found] == [[letter, "?"] for letter in "abSTOP"]


async def test_an_answer_ends_where_its_constraint_is_complete_and_with_error_where_it_does_not_allow_the_token() -> (
    None
):
    class Letters:
        """Allows one word."""

        def __init__(self, word: bytes) -> None:
            self.left = list(word)

        def fill(self, mask: npt.NDArray[np.int32]) -> None:
            mask[:] = -1

        def advance(self, token_id: int) -> None:
            if token_id != self.left.pop(0):
                raise ConstraintError("regex: the answer left it")

        @property
        def complete(self) -> bool:
            return not self.left

    async with running(ScriptedExecutor((b"hello",))) as engine:
        fits = replace(request("a"), constraint=Letters(b"hel"))
        broken = replace(request("b"), constraint=Letters(b"hat"))
        first, second = [await read(await submitted(engine, one)) for one in (fits, broken)]
        assert (first[0], first[2].reason) == ("hel", FinishReason.STOP)
        assert (second[2].reason, second[2].error) == (FinishReason.ERROR, "regex: the answer left it")
        assert await engine.wait_idle(60)
        assert nothing_left(engine)


async def test_a_stop_string_across_tokens_ends_the_answer_before_it() -> None:
    async with running(ScriptedExecutor((b"one STOP two",))) as engine:
        sampling = SamplingParams(seed=0, stop=("STOP",))
        text, tokens, finished = await read(await submitted(engine, request("a", sampling)))
        assert text == "one "
        assert (finished.reason, finished.matched_stop) == (FinishReason.STOP, "STOP")
        assert finished.output_ids == tuple(tokens) == tuple(b"one STOP")
        assert await engine.wait_idle(60)
        assert nothing_left(engine)
        assert engine.stats().requests_finished == {"stop": 1}


async def test_text_that_only_looked_like_a_stop_string_is_delivered() -> None:
    async with running(ScriptedExecutor((b"a STO b ST",))) as engine:
        sampling = SamplingParams(seed=0, stop=("STOP",))
        text, _, finished = await read(await submitted(engine, request("a", sampling)))
        assert (text, finished.matched_stop) == ("a STO b ST", "")


async def test_no_item_ends_inside_a_character() -> None:
    answer = "naïve 🙂 日本"
    async with running(ScriptedExecutor((answer.encode(),))) as engine:
        stream = await submitted(engine, request("a"))
        texts = [item.text async for item in stream]
        assert "".join(texts) == answer
        assert not any("\ufffd" in text for text in texts)


async def test_cancel_mid_stream_leaves_no_block_and_no_record() -> None:
    executor = ScriptedExecutor((b"x" * 100,))
    executor.hold()
    async with running(executor) as engine:
        stream = await submitted(engine, request("a"))
        executor.release(3)
        await anext(aiter(stream))
        stream.cancel()
        executor.release(3)
        assert await engine.wait_idle(60)
        assert nothing_left(engine)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert engine.stats().requests_finished == {"abort": 1}


async def test_abort_ends_the_stream_with_its_reason() -> None:
    executor = ScriptedExecutor((b"x" * 100,))
    executor.hold()
    async with running(executor) as engine:
        stream = await submitted(engine, request("a"))
        executor.release(1)
        await anext(aiter(stream))
        assert engine.abort("a")
        assert not engine.abort("unknown")
        executor.release(5)
        assert (await read(stream))[2].reason is FinishReason.ABORT


async def test_a_stalled_reader_does_not_stop_others_and_finds_its_text_coalesced() -> None:
    async with running(ScriptedExecutor((b"a" * 100, b"b" * 20))) as engine:
        stalled = await submitted(engine, request("slow", SamplingParams(seed=0)))
        for number in range(3):
            text, _, _ = await read(await submitted(engine, request(f"fast-{number}", SamplingParams(seed=1))))
            assert text == "b" * 20
        assert await engine.wait_idle(60)
        items = [item async for item in stalled]
        assert [item.text for item in items] == ["a" * 100]


async def test_a_failed_step_ends_its_batch_with_error_and_the_loop_lives() -> None:
    executor = ScriptedExecutor((b"hello",))
    executor.failures[3] = MemoryError("no memory for this step")
    async with running(executor) as engine:
        text, _, finished = await read(await submitted(engine, request("a")))
        assert (text, finished.reason) == ("he", FinishReason.ERROR)
        assert finished.error == "MemoryError: no memory for this step"
        assert (await read(await submitted(engine, request("b"))))[0] == "hello"
        assert engine.health().alive
        assert nothing_left(engine)


async def test_a_failed_chunk_ends_one_request_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    executor = ScriptedExecutor((b"hello",))
    executor.bad_seeds.add(7)
    async with running(executor) as engine:
        good = await submitted(engine, request("good"))
        bad = await submitted(engine, request("bad", SamplingParams(seed=7)))
        assert (await read(bad))[2].error == "logits are not finite"
        assert (await read(good))[0] == "hello"
    assert "1 of " in caplog.text
    assert "answers failed in one step of " in caplog.text


async def test_a_bug_in_the_loop_ends_every_stream_and_fails_health(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedExecutor((b"hello",))) as engine:

        def broken(now: float) -> None:
            raise RuntimeError("planted")

        monkeypatch.setattr(engine._steps.loop.scheduler, "schedule", broken)
        _, _, finished = await read(await submitted(engine, request("a")))
        assert (finished.reason, finished.error) == (
            FinishReason.ERROR,
            "the step loop has ended: RuntimeError: planted",
        )
        health = engine.health()
        assert (health.alive, health.ready) == (False, False)
        assert "planted" in health.detail
        refused = await engine.submit(request("b"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.UNAVAILABLE
        assert isinstance(await engine.update_limits(LimitsPatch(max_num_seqs=1), 0, None), Rejected)


async def test_a_deadline_ends_the_request_also_while_it_waits() -> None:
    executor = ScriptedExecutor((b"x" * 50,))
    executor.hold()
    async with running(executor, config(max_num_seqs=1)) as engine:
        first = await submitted(engine, request("first"))
        late = Request(RequestId("late"), time.monotonic(), prompt_ids=(1, 2), deadline_s=time.monotonic())
        waiting = await submitted(engine, late)
        executor.release(1)
        assert (await read(waiting))[2].reason is FinishReason.DEADLINE
        first.cancel()
        executor.release(5)
        assert await engine.wait_idle(60)
        assert nothing_left(engine)


async def test_stop_ends_what_is_in_flight_with_abort() -> None:
    executor = ScriptedExecutor((b"x" * 100,))
    executor.hold()
    engine = AsyncEngine.embed(config(max_num_seqs=1), loaded(executor))
    streams = [await submitted(engine, request(f"r{n}")) for n in range(3)]
    stopping = asyncio.create_task(engine.stop())
    await eventually(lambda: engine._steps.loop._stopping)
    executor.release(2)
    await stopping
    assert [(await read(stream))[2].reason for stream in streams] == [FinishReason.ABORT] * 3
    assert nothing_left(engine)
    assert not engine.health().alive


async def test_statistics_count_each_request_once() -> None:
    async with running(ScriptedExecutor((b"abc",))) as engine:
        for number in range(4):
            await read(await submitted(engine, request(f"r{number}")))
        stats = engine.stats()
        assert stats.requests_received == 4
        assert stats.requests_finished == {"stop": 4}
        assert stats.ttft.count == stats.queue_wait.count == stats.prefill.count == stats.e2e.count == 4
        assert stats.itl.count == 4 * 3
        assert stats.generation_tokens == 4 * 4
        assert stats.prompt_tokens == 4 * 2
        assert stats.steps == stats.step.count
        assert stats.loads.gen_throughput == pytest.approx(16 / 5)


async def test_an_engine_that_nobody_asks_for_loads_keeps_no_record_of_what_it_served() -> None:
    async with running(ScriptedExecutor((b"abc",))) as engine:
        for number in range(20):
            await read(await submitted(engine, request(f"r{number}")))
        assert len(engine._entrance._unseen) <= 1


async def test_the_executor_begins_in_the_thread_that_runs_it_before_anybody_may_submit() -> None:
    executor = ScriptedExecutor((b"x",))
    async with running(executor) as engine:
        await asyncio.to_thread(engine._steps.loop.wait_begun)
        assert executor.begun_in == "headway-step"
        await read(await submitted(engine, request("a")))


async def test_an_executor_that_cannot_begin_ends_the_engine_and_nobody_waits_for_it() -> None:
    executor = ScriptedExecutor()
    executor.begin_error = RuntimeError("no device")
    async with running(executor) as engine:
        await asyncio.to_thread(engine._steps.loop.wait_begun)
        refused = await engine.submit(request("a"))
        assert isinstance(refused, Rejected)
        assert "no device" in refused.message


async def test_a_lost_device_ends_every_stream_and_fails_health_so_that_the_process_is_restarted() -> None:
    executor = ScriptedExecutor((b"hello",))
    executor.failures[2] = DeviceLostError("the GPU is lost to this process: CUDA error")
    async with running(executor) as engine:
        streams = [await submitted(engine, request(name)) for name in ("a", "b")]
        ends = [(await read(stream))[2] for stream in streams]
        assert {end.reason for end in ends} == {FinishReason.ERROR}
        assert all("the GPU is lost" in end.error for end in ends)
        await eventually(lambda: not engine.health().alive)
        assert "the GPU is lost" in engine.health().detail
        assert isinstance(await engine.submit(request("c")), Rejected)
