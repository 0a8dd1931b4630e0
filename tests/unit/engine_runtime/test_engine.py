import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
from fake_engine_model import EOS, ByteTokenizer, ScriptedExecutor, config, loaded

from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.request import (
    Finished,
    FinishReason,
    Rejected,
    Request,
    RequestId,
    SamplingParams,
    StatusCode,
)
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel
from headway_engine.runtime.streams import TokenStream


def request(name: str, sampling: SamplingParams | None = None, *, ids: tuple[int, ...] = (104, 105)) -> Request:
    return Request(RequestId(name), time.monotonic(), prompt_ids=ids, sampling=sampling or SamplingParams(seed=0))


@contextlib.asynccontextmanager
async def running(
    executor: ScriptedExecutor, settings: EngineConfig | None = None, model: LoadedModel | None = None
) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(settings or config(), model or loaded(executor))
    try:
        yield engine
    finally:
        await engine.stop()


async def submitted(engine: AsyncEngine, wanted: Request) -> TokenStream:
    stream = await engine.submit(wanted)
    assert isinstance(stream, TokenStream), stream
    return stream


async def read(stream: TokenStream) -> tuple[str, list[int], Finished]:
    text, tokens, finished = "", list[int](), None
    async for item in stream:
        text += item.text
        tokens += item.token_ids
        finished = item.finished
    assert finished is not None
    return text, tokens, finished


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until a task or the step thread has got somewhere; there is no event to wait for."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


def nothing_left(engine: AsyncEngine) -> bool:
    scheduler = engine._scheduler
    loads = engine.loads()
    return (
        scheduler.pool.num_free == scheduler.pool.num_blocks
        and not scheduler.running()
        and not scheduler.waiting()
        and (loads.num_total, loads.used_tokens, loads.waiting_prompt_tokens) == (0, 0, 0)
    )


async def test_an_answer_is_streamed_and_ends_with_its_figures() -> None:
    async with running(ScriptedExecutor((b"hello",))) as engine:
        text, tokens, finished = await read(await submitted(engine, request("a")))
        assert text == "hello"
        assert tokens == [*b"hello", EOS]
        assert finished.reason is FinishReason.STOP
        assert finished.output_ids == tuple(tokens)
        assert finished.prompt_tokens == 2
        assert 0 <= finished.queue_ms <= finished.ttft_ms
        assert await engine.wait_idle(1)
        assert nothing_left(engine)


async def test_a_text_prompt_gives_the_same_answer_as_its_tokens() -> None:
    executor = ScriptedExecutor((b"yes",))
    async with running(executor) as engine:
        wanted = Request(RequestId("t"), time.monotonic(), text="hi", sampling=SamplingParams(seed=0))
        text, _, finished = await read(await submitted(engine, wanted))
        assert (text, finished.prompt_tokens) == ("yes", 2)
        assert executor.batches[0].chunks[0].token_ids == tuple(b"hi")


async def test_a_request_without_a_seed_gets_one_of_its_own() -> None:
    executor = ScriptedExecutor((b"x",))
    async with running(executor) as engine:
        for name in "ab":
            await read(await submitted(engine, request(name, SamplingParams())))
        seeds = {chunk.seed for batch in executor.batches for chunk in batch.chunks}
        assert len(seeds) == 2


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


async def test_a_stop_string_across_tokens_ends_the_answer_before_it() -> None:
    async with running(ScriptedExecutor((b"one STOP two",))) as engine:
        sampling = SamplingParams(seed=0, stop=("STOP",))
        text, tokens, finished = await read(await submitted(engine, request("a", sampling)))
        assert text == "one "
        assert (finished.reason, finished.matched_stop) == (FinishReason.STOP, "STOP")
        assert finished.output_ids == tuple(tokens) == tuple(b"one STOP")
        assert await engine.wait_idle(1)
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
        assert await engine.wait_idle(5)
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


async def test_a_caller_cancelled_during_tokenization_leaves_nothing() -> None:
    executor = ScriptedExecutor((b"x",))
    model = loaded(executor)
    assert isinstance(model.tokenizer, ByteTokenizer)
    model.tokenizer.gate = threading.Event()
    async with running(executor, model=model) as engine:
        wanted = Request(RequestId("t"), time.monotonic(), text="hi")
        task = asyncio.create_task(engine.submit(wanted))
        await eventually(lambda: engine.loads().num_total == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await engine.wait_idle(0)
        model.tokenizer.gate.set()
        assert (await read(await submitted(engine, request("t"))))[0] == "x"
        assert nothing_left(engine)


async def test_an_abort_during_tokenization_ends_the_request() -> None:
    executor = ScriptedExecutor((b"x" * 50,))
    model = loaded(executor)
    assert isinstance(model.tokenizer, ByteTokenizer)
    model.tokenizer.gate = threading.Event()
    async with running(executor, model=model) as engine:
        task = asyncio.create_task(engine.submit(Request(RequestId("t"), time.monotonic(), text="hi")))
        await eventually(lambda: engine.loads().num_total == 1)
        assert engine.abort("t")
        model.tokenizer.gate.set()
        stream = await task
        assert isinstance(stream, TokenStream)
        assert (await read(stream))[2].reason is FinishReason.ABORT


async def test_requests_that_arrive_together_are_tokenized_together() -> None:
    executor = ScriptedExecutor((b"x",))
    model = loaded(executor)
    assert isinstance(model.tokenizer, ByteTokenizer)
    model.tokenizer.gate = threading.Event()
    async with running(executor, model=model) as engine:
        wanted = [Request(RequestId(str(n)), time.monotonic(), text=f"prompt {n}") for n in range(5)]
        tasks = [asyncio.create_task(engine.submit(one)) for one in wanted]
        await eventually(lambda: engine.loads().num_total == 5)
        model.tokenizer.gate.set()
        for task in tasks:
            stream = await task
            assert isinstance(stream, TokenStream)
            await read(stream)
        assert model.tokenizer.batches == [1, 4]


async def test_a_tokenizer_that_fails_fails_one_batch_and_leaves_nothing() -> None:
    executor = ScriptedExecutor((b"x",))
    model = loaded(executor)
    assert isinstance(model.tokenizer, ByteTokenizer)
    model.tokenizer.failure = ValueError("bad text")
    async with running(executor, model=model) as engine:
        with pytest.raises(ValueError, match="bad text"):
            await engine.submit(Request(RequestId("t"), time.monotonic(), text="hi"))
        model.tokenizer.failure = None
        wanted = Request(RequestId("t"), time.monotonic(), text="hi", sampling=SamplingParams(seed=0))
        assert (await read(await submitted(engine, wanted)))[0] == "x"


async def test_a_stalled_reader_does_not_stop_others_and_finds_its_text_coalesced() -> None:
    async with running(ScriptedExecutor((b"a" * 100, b"b" * 20))) as engine:
        stalled = await submitted(engine, request("slow", SamplingParams(seed=0)))
        for number in range(3):
            text, _, _ = await read(await submitted(engine, request(f"fast-{number}", SamplingParams(seed=1))))
            assert text == "b" * 20
        assert await engine.wait_idle(5)
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


async def test_a_failed_chunk_ends_one_request_and_the_others_go_on() -> None:
    executor = ScriptedExecutor((b"hello",))
    executor.bad_seeds.add(7)
    async with running(executor) as engine:
        good = await submitted(engine, request("good"))
        bad = await submitted(engine, request("bad", SamplingParams(seed=7)))
        assert (await read(bad))[2].error == "logits are not finite"
        assert (await read(good))[0] == "hello"


async def test_a_bug_in_the_loop_ends_every_stream_and_fails_health(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedExecutor((b"hello",))) as engine:

        def broken(now: float) -> None:
            raise RuntimeError("planted")

        monkeypatch.setattr(engine._scheduler, "schedule", broken)
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
        assert await engine.wait_idle(5)
        assert nothing_left(engine)


async def test_drain_refuses_new_requests_and_finishes_those_in_flight() -> None:
    executor = ScriptedExecutor((b"hello",))
    executor.hold()
    async with running(executor) as engine:
        stream = await submitted(engine, request("a"))
        assert engine.health().ready
        engine.begin_drain()
        refused = await engine.submit(request("b"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.UNAVAILABLE
        assert (engine.health().alive, engine.health().ready) == (True, False)
        assert engine.loads().draining
        assert not await engine.wait_idle(0)
        executor.release(10)
        assert (await read(stream))[0] == "hello"
        assert await engine.wait_idle(5)
        assert engine.stats().requests_rejected == {"draining": 1}


async def test_a_full_queue_refuses_with_a_retry_hint() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1, max_queued_requests=2)) as engine:
        streams = [await submitted(engine, request(f"r{n}")) for n in range(3)]
        refused = await engine.submit(request("one too many"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.RESOURCE_EXHAUSTED
        assert "limits.max_queued_requests is 2" in refused.message
        assert refused.retry_after_ms >= 100
        executor.release(20)
        for stream in streams:
            await read(stream)
        assert engine.stats().requests_rejected == {"queue_full": 1}


async def test_a_bad_request_is_refused_before_the_scheduler_sees_it() -> None:
    executor = ScriptedExecutor()
    async with running(executor) as engine:
        for wanted in (
            request("a", ids=()),
            request("b", SamplingParams(max_tokens=0)),
            Request(RequestId("c"), 0.0, text="x" * 500),
        ):
            refused = await engine.submit(wanted)
            assert isinstance(refused, Rejected)
            assert refused.code is StatusCode.INVALID_ARGUMENT
        assert engine.stats().requests_rejected == {"invalid": 3}
        assert not executor.batches


async def test_a_request_id_in_flight_is_refused() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor) as engine:
        stream = await submitted(engine, request("a"))
        refused = await engine.submit(request("a"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.ALREADY_EXISTS
        executor.release(5)
        await read(stream)


async def test_a_limit_changes_between_two_steps_and_is_published() -> None:
    async with running(ScriptedExecutor((b"x",))) as engine:
        before = engine.runtime_config()
        changed = await engine.update_limits(LimitsPatch(max_num_seqs=2), 60, before.revision)
        assert isinstance(changed, RuntimeConfigState)
        assert (changed.revision, changed.effective.max_num_seqs) == (before.revision + 1, 2)
        assert 59 < engine.runtime_config().lease_remaining_s <= 60
        assert engine.loads().max_running_requests == 2
        refused = await engine.update_limits(LimitsPatch(max_num_seqs=9), 0, None)
        assert isinstance(refused, Rejected)
        assert refused.message == "limits.max_num_seqs is 9, the envelope allows 1 to 8"


async def test_stop_ends_what_is_in_flight_with_abort() -> None:
    executor = ScriptedExecutor((b"x" * 100,))
    executor.hold()
    engine = AsyncEngine(config(max_num_seqs=1), loaded(executor))
    streams = [await submitted(engine, request(f"r{n}")) for n in range(3)]
    stopping = asyncio.create_task(engine.stop())
    await eventually(lambda: engine._loop._stopping)
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


async def test_start_refuses_limits_outside_the_envelope() -> None:
    with pytest.raises(ValueError, match=r"limits\.max_queued_requests is 5000"):
        await AsyncEngine.start(config(max_queued_requests=5000))
