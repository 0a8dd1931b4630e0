"""What runtime tests do with an `AsyncEngine`: start and stop it, submit, read an answer, look for what is left."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fake_engine_model import ScriptedExecutor, config, loaded

from headway_engine.core.request import (
    Finished,
    Request,
    RequestId,
    SamplingParams,
)
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel
from headway_engine.runtime.steps import LocalSteps
from headway_engine.runtime.streams import TokenStream


def request(name: str, sampling: SamplingParams | None = None, *, ids: tuple[int, ...] = (104, 105)) -> Request:
    return Request(RequestId(name), time.monotonic(), prompt_ids=ids, sampling=sampling or SamplingParams(seed=0))


@contextlib.asynccontextmanager
async def running(
    executor: ScriptedExecutor, settings: EngineConfig | None = None, model: LoadedModel | None = None
) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine.embed(settings or config(), model or loaded(executor))
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
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)


def nothing_left(engine: AsyncEngine) -> bool:
    assert isinstance(engine._steps, LocalSteps)
    scheduler = engine._steps.loop.scheduler
    loads = engine.loads()
    return (
        scheduler.pool.num_free == scheduler.pool.num_blocks
        and not scheduler.running()
        and not scheduler.waiting()
        and (loads.num_total, loads.used_tokens, loads.waiting_prompt_tokens) == (0, 0, 0)
    )
