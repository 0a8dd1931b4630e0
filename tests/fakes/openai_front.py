"""A gateway in front of the engine's real server, and the real OpenAI client that asks it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import openai
from aiohttp.test_utils import TestServer
from fake_async_engine import FakeAsyncEngine
from loopback import served

from headway_engine.runtime.loaded import ModelInfo
from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings

HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]


class ChattyEngine(FakeAsyncEngine):
    """The fake with a chat template."""

    def model_info(self) -> ModelInfo:
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        return replace(super().model_info(), chat_template=template)


@asynccontextmanager
async def front(*engines: FakeAsyncEngine) -> AsyncIterator[tuple[openai.AsyncOpenAI, str]]:
    """A client, and the address behind it."""
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(served(engine)) for engine in engines]
        settings = Settings(tuple(addresses), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16)
        pool = await stack.enter_async_context(Engines(settings.engines))
        server = TestServer(Gateway(settings, pool).application(), handler_cancellation=True)
        await stack.enter_async_context(server)
        url = str(server.make_url("/"))
        client = openai.AsyncOpenAI(base_url=f"{url}v1", api_key="none", max_retries=0)
        yield await stack.enter_async_context(client), url


async def first_step(engine: FakeAsyncEngine) -> None:
    """One step, as soon as a request is there."""
    await engine.until(lambda: engine.open)
    engine.step()
