"""The gateway goes away: what is in flight ends, what arrives is answered, and clients are sent elsewhere."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import openai
import pytest
from aiohttp.test_utils import TestServer
from fake_async_engine import FakeAsyncEngine
from loopback import served
from openai_front import first_step

from headway_gateway import app
from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings

LONG = 600  # seconds: longer than any test


@asynccontextmanager
async def process(*flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The gateway as a process, and its port."""
    command = [sys.executable, "-m", "headway_cli.main", "gateway", "serve", "--host", "127.0.0.1", "--port", "0"]
    running = await asyncio.create_subprocess_exec(*command, *flags, stderr=asyncio.subprocess.PIPE)
    assert running.stderr is not None
    port = 0
    while not port:
        line = (await running.stderr.readline()).decode()
        assert line, "the gateway ended"
        port = int(line.rsplit(" ", 1)[1]) if "listening on port" in line else 0
    try:
        yield running, port
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@dataclass
class Client:
    """Keeps its connection, and says of each request whether it came on a new one."""

    url: str
    connections: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        for signal_, word in ((trace.on_connection_create_end, "new"), (trace.on_connection_reuseconn, "kept")):
            signal_.append(self._note(word))
        self._session = aiohttp.ClientSession(trace_configs=[trace], connector=aiohttp.TCPConnector(limit=1))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _note(self, word: str) -> Callable[..., Awaitable[None]]:
        async def note(*_: object) -> None:
            self.connections.append(word)

        return note

    def begin(self, *, stream: bool = False, tokens: int = 1) -> "aiohttp.client._RequestContextManager":
        """An answer whose head is there."""
        body = {"prompt": "x", "max_tokens": tokens, "stream": stream}
        return self._session.post(f"{self.url}/v1/completions", json=body)

    async def ask(self, *, stream: bool = False) -> tuple[str, str | None]:
        """The text of one token's answer, and what it says of its connection."""
        async with self.begin(stream=stream) as answer:
            text = await answer.text()
            if stream:
                first, *_, last = text.strip().split("\n\n")
                assert last == "data: [DONE]"
                text = first.removeprefix("data: ")
            return json.loads(text)["choices"][0]["text"], answer.headers.get("Connection")


def client_of(port: int) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


async def drains(url: str) -> None:
    """Wait until the gateway says that it does."""
    async with aiohttp.ClientSession() as session:
        said = ""
        while said != "draining\n":
            async with session.get(f"{url}/readyz") as answer:
                said = await answer.text()


async def refuses(port: int) -> None:
    """Wait until nobody listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_arrives_before_the_delay_is_over_is_answered_and_its_connection_closed(stream: bool) -> None:
    async with (
        served(FakeAsyncEngine(auto=True)) as address,
        process("--engine", address, "--drain-delay-seconds", str(LONG)) as (gateway, port),
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        assert await client.ask(stream=stream) == ("t1 ", None)
        gateway.send_signal(signal.SIGTERM)
        await drains(client.url)
        assert [await client.ask(stream=stream) for _ in range(2)] == [("t1 ", "close")] * 2
        assert client.connections == ["new", "kept", "new"]
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 128 + signal.SIGTERM, "the second one does not wait"


async def test_after_the_delay_streams_and_kept_connections_go_on_and_new_ones_are_refused() -> None:
    engine = FakeAsyncEngine()
    async with (
        served(engine) as address,
        process("--engine", address, "--drain-delay-seconds", "0.1") as (gateway, port),
        Client(f"http://127.0.0.1:{port}") as client,
        client_of(port) as api,
    ):
        await asyncio.gather(client.ask(), first_step(engine))
        stream, _ = await asyncio.gather(
            api.completions.create(model="fake", prompt="x", max_tokens=3, stream=True), first_step(engine)
        )
        gateway.send_signal(signal.SIGTERM)
        await refuses(port)
        asked = asyncio.create_task(client.ask())
        await engine.until(lambda: len(engine.open) == 2)
        engine.step()
        assert await asked == ("t1 ", "close")
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.ask()
        assert client.connections == ["new", "kept"]
        engine.step()
        assert "".join([piece.choices[0].text async for piece in stream]) == "t1 t2 t3 "
        assert await gateway.wait() == 0


async def test_a_client_whose_stream_could_not_say_so_may_ask_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeAsyncEngine()
    monkeypatch.setattr(app, "LINGER_S", LONG)
    async with served(engine) as address, Engines([address]) as pool:
        settings = Settings((address,), "127.0.0.1", 0, 60.0, 0.0, LONG, 1 << 16)
        gateway = Gateway(settings, pool)
        async with TestServer(gateway.application()) as server, Client(str(server.make_url("")).rstrip("/")) as client:
            stepping = asyncio.create_task(first_step(engine))
            async with client.begin(stream=True, tokens=2) as stream:
                gateway.begin_drain()
                finished = asyncio.create_task(gateway.finished())
                await stepping
                engine.step()
                assert (await stream.text()).endswith("data: [DONE]\n\n")
                assert "Connection" not in stream.headers
            assert await asyncio.gather(client.ask(), first_step(engine)) == [("t1 ", "close"), None]
            assert client.connections == ["new", "kept"]
            assert not finished.done()
            finished.cancel()
            monkeypatch.setattr(app, "LINGER_S", 0.0)
            await gateway.finished()


@pytest.mark.parametrize("head", ["GET /v1/models HTTP/1.1", "GET /nothing HTTP/1.1", "GET /healthz HTTP/1.0"])
async def test_each_answer_of_a_drain_says_that_its_connection_closes_and_closes_it(head: str) -> None:
    async with Engines(["127.0.0.1:1"]) as pool:
        gateway = Gateway(Settings(("127.0.0.1:1",), "127.0.0.1", 0, 60.0, 0.0, 60.0, 1 << 16), pool)
        async with TestServer(gateway.application()) as server:
            gateway.begin_drain()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(f"{head}\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode())
            answer = (await reader.read()).decode()  # until the other side closes
            assert answer.startswith("HTTP/1.")
            assert [line for line in answer.splitlines() if line.startswith("Connection:")] == ["Connection: close"]
            writer.close()


@pytest.mark.timeout(55)  # aiohttp alone would wait for a minute
async def test_a_drain_that_runs_out_ends_with_what_is_left_and_not_much_later() -> None:
    engine = FakeAsyncEngine()
    async with (
        served(engine) as address,
        process("--engine", address, "--drain-timeout-seconds", "0.1") as (gateway, port),
        client_of(port) as client,
    ):
        await asyncio.gather(
            client.completions.create(model="fake", prompt="x", max_tokens=3, stream=True), first_step(engine)
        )
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 0
        await engine.until(lambda: not engine.open)


@pytest.mark.timeout(55)
async def test_a_gateway_with_nothing_in_flight_ends_at_once_and_closes_its_connections() -> None:
    async with process("--engine", "127.0.0.1:1") as (gateway, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 0
        assert await reader.read() == b""
        writer.close()
