"""Bodies that are too long, not what their headers say, or that never end: each has a status of its own."""

import asyncio

import aiohttp
import openai
import pytest
from aiohttp.test_utils import TestServer
from fake_async_engine import FakeAsyncEngine
from openai_front import front

from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings


async def test_a_body_that_is_too_long_is_413_and_a_wrong_path_404() -> None:
    async with front(FakeAsyncEngine(auto=True)) as (client, url):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.completions.create(model="fake", prompt="x" * (1 << 17))
        assert caught.value.status_code == 413
        async with aiohttp.ClientSession() as session, session.get(f"{url}v1/nothing") as answer:
            assert answer.status == 404
            assert "there is no /v1/nothing" in (await answer.json())["error"]["message"]


async def test_a_body_that_is_not_what_its_headers_say_is_400() -> None:
    async with front(FakeAsyncEngine(auto=True)) as (_, url), aiohttp.ClientSession() as session:
        packed = {"Content-Encoding": "gzip"}
        async with session.post(f"{url}v1/completions", data=b"not packed", headers=packed) as answer:
            assert answer.status == 400
            assert "the body cannot be read" in (await answer.json())["error"]["message"]


async def test_a_body_that_never_ends_is_408() -> None:
    settings = Settings(("127.0.0.1:1",), "127.0.0.1", 0, 0.01, 0.0, 60.0, 1 << 16)
    async with Engines(settings.engines) as pool, TestServer(Gateway(settings, pool).application()) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
