"""The engines behind the gateway, and which of them gets a request.

Every address that a given host name has is an engine: one for a Service, one for each pod of a headless Service. Names are
looked up again and engines asked for their model every few seconds; one that answers and does not drain is up. A request goes
to the one that is up and has the fewest of this gateway's requests in flight. An engine that refuses because it drains, is
full or cannot be reached has started nothing, so the request goes to the next one, as long as no token of an answer has
come; so it does when a drain ends before a request that waited has got one. When all that are known have refused and one of
them is going away, its successor may have come since the last look, so names are looked up once more. An engine that is gone keeps its connection until the last answer on it has ended.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

import grpc

from headway_gateway.errors import Failure, of_call, of_end, unavailable
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

Resolve = Callable[[str], Awaitable[frozenset[str]]]

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
MISSES = 3  # slow answers after which an engine is taken to be down
_STARTED_NOTHING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(slots=True)
class Engine:
    """One engine, or the address of a Service in front of several.

    Attributes:
        client: its connection.
        info: what it serves; None while it does not answer.
        in_flight: this gateway's requests that it works on.
        turn: when it was chosen last, to take turns among equals.
        missed: probes without an answer since the last one with.
        full_until_s: it refused a request and asked not to be tried before this moment; others come first.
    """

    client: EngineClient
    info: pb.ModelInfo | None = None
    in_flight: int = 0
    turn: int = 0
    missed: int = 0
    full_until_s: float = 0.0


def pick(engines: Iterable[Engine], tried: Sequence[Engine], now: float) -> Engine | None:
    """The least busy engine that is up and not tried yet; among equals the one that was chosen longest ago."""
    open_ = [engine for engine in engines if engine.info is not None and engine not in tried]
    return min(open_, key=lambda engine: (now < engine.full_until_s, engine.in_flight, engine.turn), default=None)


class Engines:
    """All of them; use it as a context manager.

    Args:
        addresses: `host:port`, each with one or more engines behind the host's name.
        resolve: the addresses `ip:port` behind one of them.
    """

    def __init__(self, addresses: Sequence[str], resolve: Resolve | None = None) -> None:
        self._addresses = addresses
        self._resolve = resolve or look_up
        self._behind: dict[str, frozenset[str]] = {}
        self._members: dict[str, Engine] = {}
        self._leaving: list[Engine] = []
        self._turns = 0
        self._refreshing = asyncio.Lock()
        self._looked_s = float("-inf")  # when the last look began

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)
        for engine in [*self._members.values(), *self._leaving]:
            await engine.client.close()

    async def refresh(self) -> None:
        """Look names up, and ask every engine what it serves; one at a time, since both take what they have seen away."""
        async with self._refreshing:
            await self._refresh()

    async def _look_again(self) -> None:
        """Have a look that begins after this moment; those who wait for one share it."""
        asked_s = asyncio.get_running_loop().time()
        async with self._refreshing:
            if self._looked_s < asked_s:
                await self._refresh()

    async def _refresh(self) -> None:
        self._looked_s = asyncio.get_running_loop().time()
        for address in self._addresses:
            try:
                self._behind[address] = await self._resolve(address)
            except OSError as error:  # what was known of it may still be right
                log.warning("cannot look %s up: %s", address, error)
        found = frozenset[str]().union(*self._behind.values())
        for address in found - self._members.keys():
            self._members[address] = Engine(EngineClient(address))
        for address in self._members.keys() - found:
            log.info("%s is gone", address)
            self._leaving.append(self._members.pop(address))
        for engine in [engine for engine in self._leaving if not engine.in_flight]:
            self._leaving.remove(engine)
            await engine.client.close()
        await asyncio.gather(*map(_probe, self._members.values()))

    def models(self) -> list[pb.ModelInfo]:
        """One for each served name."""
        found = {engine.info.model: engine.info for engine in self._members.values() if engine.info is not None}
        return list(found.values())

    def model(self, name: str) -> pb.ModelInfo:
        """A served model by its name ("": the only one, or any).

        Raises:
            Failure: no engine is up, or none serves that model.
        """
        models = self.models()
        if not models:
            raise unavailable("no engine answers")
        chosen = next((info for info in models if name in ("", info.model)), None)
        if chosen is None:
            names = ", ".join(repr(info.model) for info in models)
            message = f"model must be one of {names}, got {name!r}"
            raise Failure(404, "invalid_request_error", message, "model", "model_not_found")
        return chosen

    async def generate(self, request: pb.GenerateRequest, timeout_s: float) -> AsyncGenerator[Message]:
        """An answer; closing the iterator cancels the request.

        Raises:
            Failure: nobody took the request, or the one who did broke off.
        """
        tried: list[Engine] = []
        refusals: list[Failure] = []
        clock = asyncio.get_running_loop().time
        while (engine := await self._next(request.model, tried, refusals)) is not None:
            tried.append(engine)
            self._turns += 1
            engine.turn = self._turns
            engine.in_flight += 1
            begun = False
            try:
                async with aclosing(engine.client.generate(request, timeout_s)) as answer:
                    async for message in answer:
                        if not begun and (cut := _cut_off(message)) is not None:
                            refusals.append(cut)
                            break
                        begun = True
                        yield message
                    else:
                        return
            except EngineError as error:
                if begun or error.code not in _STARTED_NOTHING:
                    raise of_call(error) from error
                log.info("%s did not start a request: %s", engine.client.address, error)
                refusal = of_call(error)
                engine.full_until_s = clock() + refusal.retry_after_ms / 1000
                refusals.append(refusal)
            finally:
                engine.in_flight -= 1
        # Full is the better news: it says when to come again.
        full = [refusal for refusal in refusals if refusal.status == 429]
        raise min(full or refusals or [unavailable("no engine answers")], key=lambda refusal: refusal.retry_after_ms)

    async def _next(self, model: str, tried: Sequence[Engine], refusals: Sequence[Failure]) -> Engine | None:
        """Whom to ask; None when there is nobody left."""
        clock = asyncio.get_running_loop().time
        engine = pick(self._serving(model), tried, clock())
        if engine is None and any(refusal.status == 503 for refusal in refusals):
            await self._look_again()
            engine = pick(self._serving(model), tried, clock())
        return engine

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self.refresh()
            except Exception:  # a gateway that follows its fleet no more would answer 503 for ever
                log.exception("looking after the engines failed; trying again in %g s", PROBE_INTERVAL_S)

    def _serving(self, model: str) -> list[Engine]:
        return [one for one in self._members.values() if one.info is not None and model in ("", one.info.model)]


def _cut_off(first: Message) -> Failure | None:
    """What the first message of an answer says when a drain ended it before it had a token."""
    if isinstance(first, pb.GenerateComplete) and first.finish_reason == pb.ABORT and not first.completion_tokens:
        return of_end(first)
    return None


async def look_up(address: str) -> frozenset[str]:
    """Every address of a host, with the port.

    Raises:
        OSError: the name is not known, or nobody could be asked.
    """
    host, _, port = address.rpartition(":")
    entries = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    return frozenset(f"[{name[0]}]:{port}" if ":" in str(name[0]) else f"{name[0]}:{port}" for *_, name in entries)


async def _probe(engine: Engine) -> None:
    before = engine.info
    try:
        info = await engine.client.model_info(PROBE_TIMEOUT_S)
        draining = (await engine.client.loads(PROBE_TIMEOUT_S)).draining
    except EngineError as error:
        engine.missed += 1
        # A busy engine may be slow once; one that cannot be reached is gone.
        if error.code is not grpc.StatusCode.UNAVAILABLE and engine.missed < MISSES:
            return
        engine.info = None
        if before is not None:
            log.warning("%s does not answer any more: %s", engine.client.address, error)
        return
    engine.missed = 0
    engine.info = None if draining else info
    if before is None and not draining:
        log.info("%s serves %s", engine.client.address, info.model)
