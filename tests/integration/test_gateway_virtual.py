"""A gateway that is pointed at one address with several engines behind it says so."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

import pytest
from fake_async_engine import FakeAsyncEngine
from loopback import served

from headway_gateway.engines import Engines


@asynccontextmanager
async def service(targets: Sequence[str]) -> AsyncIterator[str]:
    """One address whose connections go to the targets in turn, as those to a ClusterIP do."""
    turns, pipes, writers = cycle(targets), set[asyncio.Task[None]](), list[asyncio.StreamWriter]()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
        finally:
            sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = next(turns).rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        for one in (pipe(reader, back), pipe(there, writer)):
            pipes.add(asyncio.ensure_future(one))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in pipes:
            task.cancel()
        ends = [one.wait_closed() for one in writers]
        await asyncio.gather(*pipes, *ends, return_exceptions=True)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


async def test_several_engines_behind_one_address_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    first, second = FakeAsyncEngine(auto=True), FakeAsyncEngine(auto=True)
    second.boot_id = "boot-2"
    async with (
        served(first) as one,
        served(second) as two,
        service([one, two]) as address,
        Engines([address]) as pool,
    ):
        for _ in range(3):
            await pool.suspect()
    (said,) = warnings(caplog)
    assert said.startswith(f"--engine {address} has one address, {address}, and several engines behind it")
    assert "the headless Service FLEET-engines" in said


async def test_one_engine_alone_or_two_with_addresses_of_their_own_are_not(caplog: pytest.LogCaptureFixture) -> None:
    first, second = FakeAsyncEngine(auto=True), FakeAsyncEngine(auto=True)
    second.boot_id = "boot-2"
    async with served(first) as one, served(second) as two, service([one]) as alone:

        async def resolve(name: str) -> frozenset[str]:
            return frozenset({alone} if name == "alone:1" else {one, two})

        async with Engines(["alone:1", "pair:1"], resolve) as pool:
            await pool.suspect()
            first.boot_id = "boot-3"  # it was restarted
            await pool.suspect()
    assert warnings(caplog) == []


async def test_an_engine_that_cannot_be_asked_is_no_suspect(caplog: pytest.LogCaptureFixture) -> None:
    async with served(FakeAsyncEngine(auto=True)) as address:
        pool = await Engines([address]).__aenter__()
    try:
        await pool.suspect()
    finally:
        await pool.__aexit__()
    assert not any("several engines" in said for said in warnings(caplog))
