"""The gateway in front of the engine's real server, asked by the real OpenAI client."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import grpc
import openai
import pytest
from aiohttp.test_utils import TestServer
from fake_async_engine import FakeAsyncEngine
from loopback import served
from openai_front import HELLO, ChattyEngine, first_step, front

from headway_engine.core.request import FinishReason, Priority
from headway_gateway import engines as engines_module
from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings
from headway_rpc.client import EngineClient, EngineError, Message


async def test_a_chat_is_answered_whole_and_streamed_alike() -> None:
    engine = ChattyEngine(auto=True)
    async with front(engine) as (client, _):
        whole = await client.chat.completions.create(model="fake", messages=HELLO, max_tokens=3, temperature=0)
        assert whole.choices[0].message.content == "t1 t2 t3 "
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage is not None
        assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 4)
        stream = await client.chat.completions.create(
            model="fake", messages=HELLO, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        pieces = [piece async for piece in stream]
        assert pieces[0].choices[0].delta.role == "assistant"
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "t1 t2 t3 "
        assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == "length"
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens == 3
        assert [request.text for request in engine.submitted] == ["<user>hello"] * 2


async def test_a_completion_is_answered_whole_and_streamed_alike() -> None:
    async with front(FakeAsyncEngine(auto=True)) as (client, _):
        whole = await client.completions.create(model="fake", prompt=[4, 5], max_tokens=2)
        assert whole.choices[0].text == "t5 t6 "
        stream = await client.completions.create(model="fake", prompt=[4, 5], max_tokens=2, stream=True)
        assert "".join([piece.choices[0].text async for piece in stream]) == "t5 t6 "


async def test_the_models_of_the_engines_are_listed() -> None:
    async with front(FakeAsyncEngine(), FakeAsyncEngine()) as (client, _):
        assert [model.id async for model in client.models.list()] == ["fake"]
        assert (await client.models.retrieve("fake")).id == "fake"
        with pytest.raises(openai.NotFoundError, match="model must be one of 'fake', got 'a/b'"):
            await client.models.retrieve("a/b")


async def test_the_class_of_a_request_reaches_the_engine_by_header_field_or_tier() -> None:
    engine = ChattyEngine(auto=True)
    async with front(engine) as (client, url):
        ask = {"model": "fake", "messages": HELLO, "max_tokens": 1}
        await client.chat.completions.create(**ask, extra_headers={"x-headway-class": "batch"})
        await client.chat.completions.create(**ask, extra_body={"priority": "realtime"})
        await client.chat.completions.create(**ask, service_tier="flex")
        await client.chat.completions.create(**ask)
        assert [one.priority for one in engine.submitted] == [Priority.BATCH, Priority.REALTIME, Priority.BATCH, None]
        with pytest.raises(openai.BadRequestError, match="x-headway-class must be one of realtime, interactive, batch"):
            await client.chat.completions.create(**ask, extra_headers={"x-headway-class": "urgent"})
        assert len(engine.submitted) == 4
        async with aiohttp.ClientSession() as session, session.get(f"{url}metrics") as answer:
            text = await answer.text()
        for word, count in (("batch", 2), ("realtime", 1), ("default", 1)):
            assert f'class_time_to_first_token_seconds_count{{workload_class="{word}"}} {count}.0' in text


async def test_an_unknown_model_is_404_and_a_bad_parameter_400_naming_it() -> None:
    async with front(ChattyEngine(auto=True)) as (client, _):
        with pytest.raises(openai.NotFoundError, match="model must be one of 'fake', got 'other'"):
            await client.chat.completions.create(model="other", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match=r"top_p is 2\.0") as caught:
            await client.chat.completions.create(model="fake", messages=HELLO, top_p=2, stream=True)
        assert caught.value.param == "top_p"
        with pytest.raises(openai.BadRequestError, match=r"^Error code: 400 .*'prompt is empty") as caught:
            await client.completions.create(model="fake", prompt="")
        assert caught.value.param == "prompt"
        with pytest.raises(openai.BadRequestError, match="suffix is not supported, got 'x'"):
            await client.completions.create(model="fake", prompt="x", suffix="x")


async def test_a_full_engine_sends_the_request_on_and_when_all_are_full_it_is_429_with_a_hint() -> None:
    full, open_ = FakeAsyncEngine(queue_bound=0), FakeAsyncEngine(auto=True)
    async with front(full, open_) as (client, _):
        answers = [await client.completions.create(model="fake", prompt="x", max_tokens=1) for _ in range(4)]
        assert len(answers) == len(open_.submitted) == 4
        assert full.submits >= 1
        open_.queue_bound = 0
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(model="fake", prompt="x")
        assert caught.value.response.headers["retry-after-ms"] == "250"


async def test_a_call_that_an_engine_drops_is_begun_on_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, dropped = EngineClient.generate, list[str]()

    async def dropping(client: EngineClient, *arguments: Any) -> AsyncGenerator[Message]:
        if len(dropped) < 2:
            dropped.append(client.address)
            raise EngineError(grpc.StatusCode.CANCELLED, "CANCELLED")
        async for message in generate(client, *arguments):
            yield message

    monkeypatch.setattr(EngineClient, "generate", dropping)
    async with front(*(FakeAsyncEngine(auto=True) for _ in range(3))) as (client, _):
        answer = await client.completions.create(model="fake", prompt="x", max_tokens=1)
        assert answer.choices[0].finish_reason == "length"
        assert len(set(dropped)) == 2


async def test_load_is_shared_by_what_is_in_flight() -> None:
    engines = FakeAsyncEngine(), FakeAsyncEngine()
    async with front(*engines) as (client, _):
        calls = [
            asyncio.create_task(client.completions.create(model="fake", prompt="x", max_tokens=1)) for _ in range(10)
        ]
        await asyncio.gather(*(engine.until(lambda engine=engine: len(engine.open) == 5) for engine in engines))
        for engine in engines:
            engine.step()
        await asyncio.gather(*calls)
        assert [len(engine.submitted) for engine in engines] == [5, 5]


async def test_engines_come_and_go_with_the_addresses_of_a_name_and_a_gone_one_finishes_its_answers() -> None:
    old, new = FakeAsyncEngine(), FakeAsyncEngine(auto=True)
    async with served(old) as old_address, served(new) as new_address:
        behind = {old_address}

        async def resolve(address: str) -> frozenset[str]:
            assert address == "fleet:50051"
            return frozenset(behind)

        settings = Settings(("fleet:50051",), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16)
        async with (
            Engines(settings.engines, resolve) as pool,
            TestServer((gateway := Gateway(settings, pool)).application()) as server,
            openai.AsyncOpenAI(base_url=str(server.make_url("v1")), api_key="none", max_retries=0) as client,
        ):
            stream, _ = await asyncio.gather(
                client.completions.create(model="fake", prompt="x", max_tokens=3, stream=True), first_step(old)
            )
            behind = {new_address}
            await pool.refresh()
            answer = await client.completions.create(model="fake", prompt="y", max_tokens=2)
            assert answer.choices[0].text == "t1 t2 "
            assert (len(old.submitted), len(new.submitted)) == (1, 1)
            old.step()
            old.step()
            assert "".join([piece.choices[0].text async for piece in stream]) == "t1 t2 t3 "
            await gateway.finished()  # the client may have read the end before the gateway has let go of the engine
            await pool.refresh()
            assert pool._leaving == []


async def test_a_watch_that_fails_once_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "PROBE_INTERVAL_S", 0.0)
    failures = ["a bug"]
    async with served(FakeAsyncEngine()) as address:
        behind = frozenset[str]()
        found = asyncio.Event()

        async def resolve(_: str) -> frozenset[str]:
            if behind and failures:
                raise RuntimeError(failures.pop())
            if behind:
                found.set()
            return behind

        async with Engines(["fleet:1"], resolve) as pool:
            assert pool.models() == []
            behind = frozenset({address})
            await found.wait()
            await pool.refresh()
            assert [info.model for info in pool.models()] == ["fake"]
            assert failures == []


async def test_an_engine_that_drains_is_not_chosen_and_a_name_that_is_lost_for_a_while_changes_nothing() -> None:
    engine = FakeAsyncEngine(auto=True)
    async with served(engine) as address:
        known = True

        async def resolve(_: str) -> frozenset[str]:
            if not known:
                raise OSError("no such name")
            return frozenset({address})

        async with Engines(["fleet:1"], resolve) as pool:
            known = False
            await pool.refresh()
            assert [info.model for info in pool.models()] == ["fake"]
            engine.begin_drain()
            await pool.refresh()
            assert pool.models() == []


async def test_a_client_that_goes_away_ends_its_request() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, _):
        stream = await asyncio.gather(
            client.completions.create(model="fake", prompt="x", max_tokens=100, stream=True),
            engine.until(lambda: engine.open),
            first_step(engine),
        )
        assert engine.open
        await stream[0].close()
        await engine.until(lambda: not engine.open)
        assert engine.streams[0].cancelled


async def test_a_client_that_goes_away_before_the_first_token_ends_its_request_too() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, _):
        call = asyncio.create_task(client.completions.create(model="fake", prompt="x"))
        await engine.until(lambda: engine.open)
        call.cancel()
        await engine.until(lambda: not engine.open)
        assert engine.streams[0].cancelled


async def test_an_engine_that_fails_in_the_middle_is_told_in_the_stream() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, _):
        stream, _ = await asyncio.gather(
            client.completions.create(model="fake", prompt="x", max_tokens=100, stream=True), first_step(engine)
        )
        (name,) = engine.open
        engine.abort(name)
        with pytest.raises(openai.APIError, match="going away"):
            async for _ in stream:
                pass


async def test_metrics_count_requests_and_what_is_in_flight() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, url), aiohttp.ClientSession() as session:
        call = asyncio.create_task(client.completions.create(model="fake", prompt="x", max_tokens=1))
        await engine.until(lambda: engine.open)
        async with session.get(f"{url}metrics") as answer:
            assert "headway_gateway_requests_in_flight 1.0" in await answer.text()
        engine.step()
        await call
        async with session.get(f"{url}metrics") as answer:
            text = await answer.text()
        assert 'headway_gateway_requests_total{route="/v1/completions",status="200"} 1.0' in text
        assert "headway_gateway_time_to_first_token_seconds_count 1.0" in text


async def test_without_engines_it_is_alive_and_not_ready() -> None:
    settings = Settings(("127.0.0.1:1",), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16)
    async with Engines(settings.engines) as pool, TestServer(Gateway(settings, pool).application()) as server:
        async with aiohttp.ClientSession() as session:
            for path, status in (("healthz", 200), ("readyz", 503)):
                async with session.get(server.make_url(path)) as answer:
                    assert answer.status == status
        client = openai.AsyncOpenAI(base_url=str(server.make_url("v1")), api_key="none", max_retries=0)
        async with client:
            with pytest.raises(openai.InternalServerError, match="no engine answers"):
                await client.completions.create(model="fake", prompt="x")


async def test_a_port_in_use_is_one_line() -> None:
    async with served(FakeAsyncEngine()) as address:
        command = [sys.executable, "-m", "headway_cli.main", "gateway", "serve", "--host", "127.0.0.1"]
        second = await asyncio.create_subprocess_exec(
            *command, "--port", address.rpartition(":")[2], "--engine", address, stderr=asyncio.subprocess.PIPE
        )
        _, err = await second.communicate()
        assert second.returncode == 1
        assert b"Traceback" not in err
        assert b"headway gateway serve: --port" in err


async def test_a_stream_whose_deadline_passes_before_its_first_token_is_504() -> None:
    engine = FakeAsyncEngine()
    async with front(engine) as (client, _):

        async def late() -> None:
            await engine.until(lambda: engine.open)
            (name,) = engine.open
            engine.abort(name, FinishReason.DEADLINE)

        with pytest.raises(openai.APIStatusError) as caught:
            await asyncio.gather(client.completions.create(model="fake", prompt="x", stream=True), late())
        assert caught.value.status_code == 504


async def test_events_are_one_line_of_json_each_and_end_with_done() -> None:
    async with front(FakeAsyncEngine(auto=True)) as (_, url), aiohttp.ClientSession() as session:
        body = {"prompt": "x", "max_tokens": 2, "stream": True}
        async with session.post(f"{url}v1/completions", json=body) as answer:
            assert answer.content_type == "text/event-stream"
            lines = [line for line in (await answer.text()).split("\n\n") if line]
        assert lines[-1] == "data: [DONE]"
        assert all(json.loads(line.removeprefix("data: "))["object"] == "text_completion" for line in lines[:-1])
