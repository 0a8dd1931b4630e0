"""Several answers read as one: the choices of a request with `n` above 1."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headway_gateway.errors import Failure
from headway_rpc.client import Message

Source = AsyncGenerator[Message]


async def first_messages(sources: Sequence[Source]) -> list[Message]:
    """The first message of each source; all are asked at once.

    Raises:
        Failure: the first one that any of them met; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_first(source)) for source in sources]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


async def merged(sources: Sequence[Source]) -> AsyncGenerator[tuple[int, Message]]:
    """Messages as they come, each with the index of its source. Close it when done; the sources stay the caller's.

    Raises:
        Failure: the first one that any of them met.
    """
    # As deep as one message of each: a reader that stalls holds its sources back.
    queue: asyncio.Queue[tuple[int, Message | Exception | None]] = asyncio.Queue(len(sources))

    async def pump(index: int, source: Source) -> None:
        try:
            async for message in source:
                await queue.put((index, message))
            await queue.put((index, None))
        except Exception as error:  # noqa: BLE001 - the reader raises it
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(index, source)) for index, source in enumerate(sources)]
    try:
        running = len(sources)
        while running:
            index, message = await queue.get()
            if message is None:
                running -= 1
            elif isinstance(message, Exception):
                raise message
            else:
                yield index, message
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def alone(source: Source) -> AsyncGenerator[tuple[int, Message]]:
    """The same of one source, without the queue."""
    async with aclosing(source):
        async for message in source:
            yield 0, message


async def _first(source: Source) -> Message:
    message = await anext(source, None)
    if message is None:
        raise Failure(500, "server_error", "the engine ended the answer before it began")
    return message
