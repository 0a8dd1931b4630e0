"""What a client may ask for beyond one plain text: several choices, log probabilities."""

import asyncio

import openai
import pytest
from fake_async_engine import FakeAsyncEngine
from openai_front import HELLO, ChattyEngine, front


async def test_each_token_has_its_log_probability_whole_and_streamed_alike() -> None:
    async with front(ChattyEngine(auto=True)) as (client, _):
        asked = {"model": "fake", "messages": HELLO, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}
        whole = await client.chat.completions.create(**asked)
        assert whole.choices[0].logprobs is not None
        content = whole.choices[0].logprobs.content or []
        assert [(one.token, one.logprob, one.bytes) for one in content] == [
            ("t1 ", -0.5, [*b"t1 "]),
            ("t2 ", -0.5, [*b"t2 "]),
        ]
        assert [(best.token, best.bytes) for best in content[0].top_logprobs] == [("t1 ", [*b"t1 "]), ("\ufffd", None)]
        streamed = []
        async for piece in await client.chat.completions.create(**asked, stream=True):
            for choice in piece.choices:
                streamed += (choice.logprobs.content or []) if choice.logprobs else []
        assert streamed == content
        plain = await client.completions.create(model="fake", prompt=[4], max_tokens=2, logprobs=1)
        assert plain.choices[0].logprobs is not None
        assert plain.choices[0].logprobs.tokens == ["t5 ", "t6 "]
        assert plain.choices[0].logprobs.text_offset == [0, 3]
        assert plain.choices[0].logprobs.top_logprobs == [{"t5 ": -0.5}, {"t6 ": -0.5}]


async def test_choices_come_whole_and_streamed_and_their_prompt_counts_once() -> None:
    engine = FakeAsyncEngine(auto=True)
    async with front(engine) as (client, _):
        asked = {"model": "fake", "prompt": [4, 5], "max_tokens": 3, "n": 3, "seed": 8}
        whole = await client.completions.create(**asked)
        assert [(one.index, one.text, one.finish_reason) for one in whole.choices] == [
            (index, "t5 t6 t7 ", "length") for index in range(3)
        ]
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 9)
        assert sorted(request.sampling.seed or 0 for request in engine.submitted) == [8, 9, 10]
        texts, reasons = ["", "", ""], ["", "", ""]
        async for piece in await client.completions.create(**asked, stream=True):
            for choice in piece.choices:
                texts[choice.index] += choice.text
                reasons[choice.index] = choice.finish_reason
        assert (texts, reasons) == (["t5 t6 t7 "] * 3, ["length"] * 3)


async def test_a_choice_that_is_refused_refuses_the_request_and_leaves_nothing() -> None:
    engine = FakeAsyncEngine(queue_bound=2)
    async with front(engine) as (client, _):
        with pytest.raises(openai.RateLimitError):
            await client.completions.create(model="fake", prompt="x", max_tokens=3, n=3)
        await engine.until(lambda: not engine.open)


async def test_a_client_that_goes_away_ends_all_its_choices() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, _):
        call = client.completions.create(model="fake", prompt="x", max_tokens=9, n=3, stream=True)
        asking = asyncio.create_task(call)
        await engine.until(lambda: len(engine.open) == 3)
        engine.step()
        stream = await asking
        await stream.close()
        await engine.until(lambda: not engine.open)
