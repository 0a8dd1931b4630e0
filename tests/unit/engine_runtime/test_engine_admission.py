import asyncio
import os
import threading
import time
from dataclasses import replace

import pytest
from fake_engine_client import eventually, nothing_left, read, request, running, submitted
from fake_engine_model import ByteTokenizer, ScriptedExecutor, config, loaded

from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.core.request import (
    FinishReason,
    Priority,
    Rejected,
    Request,
    RequestId,
    SamplingParams,
    StatusCode,
)
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.streams import TokenStream


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
        assert await engine.wait_idle(60)
        assert engine.stats().requests_rejected == {"draining": 1}


async def test_a_full_queue_refuses_with_a_retry_hint() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1, max_queued_requests=2)) as engine:
        streams = [await submitted(engine, request(f"r{n}")) for n in range(3)]
        refused = await engine.submit(request("one too many"))
        assert isinstance(refused, Rejected)
        assert refused.code is StatusCode.RESOURCE_EXHAUSTED
        assert refused.message == "2 requests wait for a slot, limits.max_queued_requests is 2"
        assert refused.retry_after_ms >= 100
        executor.release(20)
        for stream in streams:
            await read(stream)
        assert engine.stats().requests_rejected == {"queue_full": 1}


async def test_requests_that_ended_wait_for_nothing_while_their_end_is_on_its_way_to_the_streams() -> None:
    """The operator would take them for a queue, and the queue's bound for its requests."""
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=2, max_queued_requests=1)) as engine:
        streams = [await submitted(engine, request(name)) for name in ("a", "b", "next")]
        await eventually(lambda: engine.loads().num_running == 2)
        assert engine.loads().num_waiting == 1
        executor.release(2)
        # Without a turn of the event loop: the streams have not heard of it.
        while engine.stats().requests_finished != {"stop": 2} or engine.loads().num_running != 1:
            os.sched_yield()
        assert engine.loads().num_waiting == 0
        streams.append(await submitted(engine, request("one more")))
        executor.release(20)
        for stream in streams:
            await read(stream)
        assert nothing_left(engine)


async def test_batch_work_that_waits_takes_no_room_in_the_queue_from_better_classes() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    limits = replace(config(max_num_seqs=1, max_queued_requests=2), max_queued_batch_requests=4, reserved_percent=10)
    async with running(executor, limits) as engine:
        first = await submitted(engine, request("first"))
        await eventually(lambda: engine.loads().num_running == 1)
        heap = [await submitted(engine, replace(request(f"b{n}"), priority=Priority.BATCH)) for n in range(4)]
        refused = await engine.submit(replace(request("b4"), priority=Priority.BATCH))
        assert isinstance(refused, Rejected)
        assert refused.message == "4 requests wait for a slot, limits.max_queued_batch_requests is 4"
        chats = [await submitted(engine, request(f"c{n}")) for n in range(2)]
        refused = await engine.submit(request("c2"))
        assert isinstance(refused, Rejected)
        assert refused.message == "2 requests wait for a slot, limits.max_queued_requests is 2"
        assert {kind: one.refused for kind, one in engine.stats().classes.items()} == {
            Priority.INTERACTIVE: 1,
            Priority.BATCH: 1,
        }
        executor.release(50)
        for stream in (first, *heap, *chats):
            await read(stream)
        classes = engine.stats().classes
        assert {kind: one.finished for kind, one in classes.items()} == {Priority.INTERACTIVE: 3, Priority.BATCH: 4}


async def test_batch_work_that_no_step_has_seen_yet_is_known_as_such() -> None:
    """The operator would take it for the demand of better classes, and the queue's bound for their requests."""
    executor = ScriptedExecutor((b"x",))
    model = loaded(executor)
    assert isinstance(model.tokenizer, ByteTokenizer)
    executor.hold()
    async with running(executor, config(max_num_seqs=1), model=model) as engine:
        first = await submitted(engine, request("first"))
        await eventually(lambda: engine.loads().num_running == 1)
        sent = await submitted(engine, replace(request("sent", ids=(5, 6, 7)), priority=Priority.BATCH))
        model.tokenizer.gate = threading.Event()
        text = Request(RequestId("text"), time.monotonic(), text="hi", priority=Priority.BATCH)
        entering = asyncio.create_task(engine.submit(text))
        await eventually(lambda: engine.loads().num_total == 3)
        loads = engine.loads()
        assert (loads.num_waiting, loads.num_waiting_batch, loads.waiting_batch_prompt_tokens) == (2, 2, 3)
        stats = engine.stats()
        batch = stats.classes[Priority.BATCH]
        assert (batch.admitted, batch.finished, batch.prompt_tokens_admitted) == (2, 0, 3)
        assert stats.requests_received - batch.admitted == 1
        model.tokenizer.gate.set()
        last = await entering
        assert isinstance(last, TokenStream)
        executor.release(20)
        for stream in (first, sent, last):
            await read(stream)
        assert engine.stats().classes[Priority.BATCH].prompt_tokens_admitted == 5
        assert nothing_left(engine)


async def test_a_request_that_names_no_class_counts_in_the_one_that_was_the_default_when_it_came() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1)) as engine:
        streams = [await submitted(engine, request(f"r{n}")) for n in range(2)]
        change = asyncio.create_task(engine.update_limits(LimitsPatch(default_class=Priority.BATCH), 60, None))
        executor.release(20)
        assert isinstance(await change, RuntimeConfigState)
        streams.append(await submitted(engine, request("r2")))
        for stream in streams:
            await read(stream)
        counted = {kind: (one.admitted, one.finished) for kind, one in engine.stats().classes.items()}
        assert counted == {Priority.INTERACTIVE: (2, 2), Priority.BATCH: (1, 1)}


async def test_a_request_without_a_class_is_refused_by_the_bound_of_the_default_one() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    limits = replace(
        config(max_num_seqs=1, max_queued_requests=9), max_queued_batch_requests=1, default_class=Priority.BATCH
    )
    async with running(executor, limits) as engine:
        streams = [await submitted(engine, request(f"r{n}")) for n in range(2)]
        refused = await engine.submit(request("one too many"))
        assert isinstance(refused, Rejected)
        assert refused.message == "1 requests wait for a slot, limits.max_queued_batch_requests is 1"
        executor.release(20)
        for stream in streams:
            await read(stream)


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
        assert 0 < engine.runtime_config().lease_remaining_s <= 60
        assert engine.loads().max_running_requests == 2
        refused = await engine.update_limits(LimitsPatch(max_num_seqs=9), 0, None)
        assert isinstance(refused, Rejected)
        assert refused.message == "limits.max_num_seqs is 9, the envelope allows 1 to 8"


async def test_steps_are_made_under_the_baseline_again_once_a_lease_has_ended() -> None:
    executor = ScriptedExecutor((b"x",))
    async with running(executor) as engine:
        leased = await engine.update_limits(LimitsPatch(max_num_seqs=1), 1, None)
        assert isinstance(leased, RuntimeConfigState)
        await eventually(lambda: engine.runtime_config().lease_remaining_s == 0)
        assert engine.runtime_config().revision == leased.revision + 1
        executor.hold()
        streams = [await submitted(engine, request(name)) for name in "ab"]
        # The step of the first one may have begun before the second came: it is in the next one.
        executor.release()
        await eventually(lambda: engine.loads().num_running == 2)
        executor.release(10)
        await asyncio.gather(*(read(stream) for stream in streams))


async def test_start_refuses_limits_outside_the_envelope() -> None:
    with pytest.raises(ValueError, match=r"limits\.max_queued_requests is 5000"):
        await AsyncEngine.start(config(max_queued_requests=5000))


@pytest.mark.parametrize("how", ["text", "tokens"])
async def test_a_long_prompt_is_cut_where_the_policy_says_and_the_answer_says_by_how_much(how: str) -> None:
    settings = replace(config(), prompt_policy=PromptPolicy.TRUNCATE_LEFT)
    async with running(ScriptedExecutor((b"ok",)), settings) as engine:
        longest = engine._bounds.max_len
        asked = request("a", ids=(5,) * (longest + 8))
        if how == "text":
            asked = replace(asked, text="x" * (longest + 8), prompt_ids=())
        text, _, finished = await read(await submitted(engine, asked))
        assert text == "ok"
        assert finished.prompt_tokens + finished.truncated_tokens == longest + 8
        assert finished.truncated_tokens > 0


async def test_what_another_engine_had_taken_is_taken_over_by_a_full_queue_and_is_no_new_request() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1, max_queued_requests=1)) as engine:
        first = await submitted(engine, request("a"))
        await eventually(lambda: engine.loads().num_running == 1)
        second = await submitted(engine, request("b"))
        assert isinstance(await engine.submit(request("c")), Rejected)
        over = replace(request("d"), priority=Priority.BATCH, arrival_s=time.monotonic() - 60, moved=True)
        third = await submitted(engine, over)
        assert engine.loads().room_for_batch == -2
        executor.release(100)
        ends = [(await read(stream))[2] for stream in (first, second, third)]
        assert ends[2].queue_ms > 60_000
        stats = engine.stats()
        batch = stats.classes[Priority.BATCH]
        assert (batch.admitted, batch.moved, batch.prompt_tokens_admitted, batch.finished) == (0, 1, 0, 1)
        assert stats.requests_received == 3


async def test_a_full_queue_takes_over_as_much_as_one_other_engine_can_hold_and_no_more() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1, max_queued_requests=1)) as engine:
        streams = [await submitted(engine, request("first"))]
        await eventually(lambda: engine.loads().num_running == 1)
        streams += [await submitted(engine, replace(request(f"m{n}"), moved=True)) for n in range(3)]
        refused = await engine.submit(replace(request("one too many"), moved=True))
        assert isinstance(refused, Rejected)
        assert refused.message == (
            "3 requests wait for a slot, limits.max_queued_requests is 1, and 2 more may come from other engines"
        )
        executor.release(100)
        for stream in streams:
            await read(stream)


async def test_what_was_moved_and_cannot_be_served_counts_as_one_that_came_and_was_refused() -> None:
    async with running(ScriptedExecutor()) as engine:
        engine.begin_drain()
        assert isinstance(await engine.submit(replace(request("a"), moved=True)), Rejected)
        stats = engine.stats()
        assert (stats.requests_received, stats.requests_rejected, stats.classes) == (1, {"draining": 1}, {})


async def test_room_for_batch_leaves_what_is_reserved_and_is_none_while_somebody_waits_for_blocks() -> None:
    executor = ScriptedExecutor((b"x",), num_blocks=8)
    executor.hold()
    async with running(executor, config(max_num_seqs=4)) as engine:
        assert engine.loads().room_for_batch == 4
        await engine.update_limits(LimitsPatch(reserved_percent=25), 0, None)
        assert engine.loads().room_for_batch == 3
        streams = [await submitted(engine, request(name, ids=(7,) * 25)) for name in "ab"]
        await eventually(lambda: executor.batches == [] and engine.loads().num_running == 1)
        executor.release(1)
        await eventually(lambda: engine.loads().room_for_batch == -1)
        executor.release(100)
        for stream in streams:
            await read(stream)
        assert engine.loads().room_for_batch == 3


async def test_only_what_has_not_begun_is_given_back() -> None:
    executor = ScriptedExecutor((b"x",))
    executor.hold()
    async with running(executor, config(max_num_seqs=1)) as engine:
        streams = [await submitted(engine, replace(request(name), priority=Priority.BATCH)) for name in "abc"]
        await eventually(lambda: engine.loads().num_running == 1)
        engine.give_back(["a", "b", "c", "unknown"], 1)
        executor.release(100)
        reasons = [(await read(stream))[2].reason for stream in streams]
        assert reasons == [FinishReason.STOP, FinishReason.GIVEN_BACK, FinishReason.STOP]
        batch = engine.stats().classes[Priority.BATCH]
        assert (batch.admitted, batch.finished, batch.moved) == (3, 2, -1)
        assert engine.stats().requests_finished == {"stop": 2}
        assert nothing_left(engine)
