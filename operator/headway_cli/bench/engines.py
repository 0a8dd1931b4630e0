"""The engines that a load test sends to; which they are may change while it runs.

A request goes to the engine with the fewest of this client's requests in flight. An engine that leaves (its pod drains)
gets no new ones, but its connection stays for the answers that still run on it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

CONNECT_TIMEOUT_S = 10.0

# With the seconds that the answer may take.
Send = Callable[[pb.GenerateRequest], AsyncGenerator[Message]]


@dataclass(slots=True)
class Engine:
    """One engine, and how many of this client's requests it works on."""

    address: str
    send: Send
    in_flight: int = 0


class EnginePool:
    """Connections to engines; use it as a context manager.

    Args:
        timeout_s: deadline of every request.
        mux: one `GenerateMux` stream per engine instead of one call per request.
    """

    def __init__(self, timeout_s: float, mux: bool) -> None:
        self._timeout_s = timeout_s
        self._mux = mux
        self._stack = AsyncExitStack()
        self._connected: dict[str, Engine] = {}
        self._open: tuple[Engine, ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def open(self) -> tuple[Engine, ...]:
        """The engines that get new requests."""
        return self._open

    async def start(self, addresses: Sequence[str]) -> None:
        """Connect to every one.

        Raises:
            EngineError: one does not answer.
        """
        self._open = tuple([await self._connect(address) for address in addresses])

    async def follow(self, addresses: Sequence[str]) -> None:
        """These get requests from now on; one that does not answer is left out until it is asked for again."""
        found: list[Engine] = []
        for address in addresses:
            with suppress(EngineError):
                found.append(self._connected.get(address) or await self._connect(address))
        # None at all is more likely a moment between two states than the end of the fleet.
        self._open = tuple(found) or self._open

    def pick(self, tried: Collection[str]) -> Engine:
        """The least busy engine; of those not tried yet, while there are any."""
        fresh = [engine for engine in self._open if engine.address not in tried]
        return min(fresh or self._open, key=lambda engine: engine.in_flight)

    async def _connect(self, address: str) -> Engine:
        client = EngineClient(address)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client)
            await client.wait_ready(CONNECT_TIMEOUT_S)
            if self._mux:
                send: Send = (await stack.enter_async_context(client.mux())).generate
            else:
                send = self._caller(client)
            self._stack.push_async_exit(stack.pop_all())
        engine = self._connected[address] = Engine(address, send)
        return engine

    def _caller(self, client: EngineClient) -> Send:
        return lambda request: client.generate(request, self._timeout_s)


async def warm_up(engines: Sequence[Engine], request: Callable[[], pb.GenerateRequest], times: int) -> None:
    """Send each engine some requests at once, and wait for their ends."""

    async def once(engine: Engine) -> None:
        async for _ in engine.send(request()):
            pass

    await asyncio.gather(*(once(engine) for engine in engines for _ in range(times)))
