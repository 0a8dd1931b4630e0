"""Which engine gets a request, and what the metrics tell of it: the gateway before the engine's real server."""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from aiohttp.test_utils import TestServer
from fake_async_engine import FakeAsyncEngine
from fake_engine_model import QuickExecutor, config, loaded
from loopback import served
from openai_front import front

from headway_engine.runtime.engine import AsyncEngine
from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings

LONG = "x" * 4000  # as much work as five requests


async def test_short_prompts_go_round_a_long_one_until_it_has_its_first_token() -> None:
    engines = FakeAsyncEngine(), FakeAsyncEngine()
    async with front(*engines) as (client, url), aiohttp.ClientSession() as session:

        async def metrics() -> str:
            async with session.get(f"{url}metrics") as answer:
                return await answer.text()

        def ask(prompt: str) -> "asyncio.Task[object]":
            return asyncio.create_task(client.completions.create(model="fake", prompt=prompt, max_tokens=2))

        calls = [ask(LONG)]
        await asyncio.wait(
            [asyncio.create_task(one.until(lambda one=one: one.open)) for one in engines],
            return_when=asyncio.FIRST_COMPLETED,
        )
        busy, free = engines if engines[0].open else engines[::-1]
        calls += [ask("short") for _ in range(5)]
        await free.until(lambda: len(free.open) == 5)
        text = await metrics()
        assert text.count('headway_gateway_engine_unanswered_prompt_tokens{engine="127.0.0.1:') == 2
        assert "} 1000.0" in text
        busy.step()
        while "} 1000.0" in await metrics():
            pass
        calls += [ask("short") for _ in range(4)]
        await busy.until(lambda: len(busy.open) == 5)
        for one in engines:
            one.step()
            one.step()
        await asyncio.gather(*calls)
        assert (len(busy.submitted), len(free.submitted)) == (5, 5)
        lines = [line for line in (await metrics()).splitlines() if line.startswith("headway_gateway_engine_")]
        assert len(lines) == 4
        assert all(line.endswith(" 0.0") for line in lines)


async def test_a_conversation_finds_what_its_engine_has_computed() -> None:
    async with AsyncExitStack() as stack:
        engines = [AsyncEngine.embed(config(), loaded(QuickExecutor(), max_model_len=1500)) for _ in range(3)]
        addresses = [await stack.enter_async_context(served(engine)) for engine in engines]
        pool = await stack.enter_async_context(Engines(addresses))
        gateway = Gateway(Settings(tuple(addresses), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16), pool)
        server = await stack.enter_async_context(TestServer(gateway.application()))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        counted = list[int]()

        async def ask(prompt: str, salt: str = "") -> int:
            body = {"prompt": prompt, "max_tokens": 1, "cache_salt": salt}
            async with session.post(server.make_url("/v1/completions"), json=body) as answer:
                told = await answer.json()
            counted.append(told["usage"]["prompt_tokens_details"]["cached_tokens"])
            return counted[-1]

        talk, computed = "how it began. " * 40, 0
        for _ in range(5):
            assert await ask(talk) == computed // 4 * 4, "in whole blocks of 4 tokens, which are bytes"
            await ask("another one")
            computed = len(talk)
            talk += "what is said next. " * 5
        assert await ask(talk, "of another tenant") == 0
        assert pool.prompts.cached == sum(counted)
        assert 0 < pool.prompts.expected <= pool.prompts.cached
        async with session.get(server.make_url("/metrics")) as answer:
            text = await answer.text()
        assert f"headway_gateway_cached_prompt_tokens_total {float(sum(counted))}" in text
        assert f"headway_gateway_cached_prompt_tokens_expected_total {float(pool.prompts.expected)}" in text
        assert f"headway_gateway_prompt_tokens_total {float(pool.prompts.total)}" in text
