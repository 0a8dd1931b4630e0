"""The engines behind the gateway, and which of them gets a request.

Every address that a given host name has is an engine, as the addresses of a headless Service are; where one has several
behind it, as that of any other Service has, users are warned (`virtual`). Names are looked up again and engines asked for
their model every few seconds; one that answers and does not drain is up. A request goes to the one that is up and has the
least work before it (`engine`); batch work goes to one that has a slot for it, where there is one. An engine that
refuses because it drains, is full or cannot be reached has started nothing, so the request goes to the next one, as long as no
token of an answer has come; so it does when a drain ends before a request that waited has got one. When all that are known
have refused and one of them is going away, its successor may have come since the last look, so names are looked up once more.
An engine that is gone keeps its connection until the last answer on it has ended.

Requests wait in the engines, where the operator sees them. When an engine has got room for batch work and some waits in
another, the other is asked to give it back (`balance`), and the request begins anew where there is room.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

import grpc

from headway_gateway.asked import Asked
from headway_gateway.balance import GiveBack, give_backs
from headway_gateway.engine import Engine, pick
from headway_gateway.errors import Failure, of_call, unavailable
from headway_gateway.virtual import other_engine_behind
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

Resolve = Callable[[str], Awaitable[frozenset[str]]]

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
SUSPECT_EVERY = 5  # looks, after which an address that stands alone behind a name is tried with a second connection
MISSES = 3  # slow answers after which an engine is taken to be down
VIRTUAL = (
    "--engine %s has one address, %s, and several engines behind it: this gateway's requests go to one of them at a time. Name the"
    " engines themselves: the headless Service FLEET-engines has the address of each"
)
_STARTED_NOTHING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
_NOT_BEGUN = (pb.ABORT, pb.GIVEN_BACK)


@dataclass(slots=True)
class PromptTokens:
    """Of answers that have ended.

    Attributes:
        total: tokens of their prompts.
        expected: of these, in the prefix cache by what this gateway remembers.
        cached: of these, in the prefix cache by what the engines say.
    """

    total: int = 0
    expected: int = 0
    cached: int = 0

    def count(self, end: pb.GenerateComplete, expected: int) -> None:
        """One answer more."""
        self.total += end.prompt_tokens
        self.expected += min(expected, end.prompt_tokens)
        self.cached += end.cached_tokens


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
        self.moved = 0  # requests that an engine gave back for another one
        self.prompts = PromptTokens()
        self._refreshing = asyncio.Lock()
        self._stirred = asyncio.Event()  # an engine may have got room
        self._looked_s = float("-inf")  # when the last look began
        self._looks = 0
        self._virtual: set[str] = set()  # names that have been warned of

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._watcher = asyncio.create_task(self._watch())
        self._balancer = asyncio.create_task(self._balance())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = self._watcher, self._balancer
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
        self._stirred.set()

    def members(self) -> list[tuple[str, Engine]]:
        """Those that the names stand for now, by address."""
        return sorted(self._members.items())

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
        clock = asyncio.get_running_loop().time
        asked = Asked(request, clock(), clock() + timeout_s)
        while (engine := await self._next(asked)) is not None:
            asked.tried.append(engine)
            self._turns += 1
            engine.turn = self._turns
            message, begun = asked.message(clock()), False
            cached = engine.prefixes.cached(asked.prompt)
            engine.entrust(message, asked.waiting(clock(), cached))
            try:
                async with aclosing(engine.client.generate(message, max(0.0, asked.until_s - clock()))) as answer:
                    async for part in answer:
                        if not begun and (end := _unbegun(part)) is not None:
                            asked.came_back(engine, end)
                            self.moved += end.finish_reason == pb.GIVEN_BACK
                            break
                        if not begun:
                            begun = True
                            engine.begin(message)
                            if isinstance(part, pb.GenerateChunk) or part.completion_tokens:
                                engine.prefixes.note(asked.prompt)
                        if isinstance(part, pb.GenerateComplete):
                            self.prompts.count(part, cached)
                        yield part
                    else:
                        return
            except EngineError as error:
                if begun or error.code not in _STARTED_NOTHING:
                    raise of_call(error) from error
                log.info("%s did not start a request: %s", engine.client.address, error)
                refusal = of_call(error)
                engine.full_until_s = clock() + refusal.retry_after_ms / 1000
                asked.refusals.append(refusal)
            finally:
                engine.release(message)
                self._stirred.set()
        # Full is the better news: it says when to come again.
        full = [refusal for refusal in asked.refusals if refusal.status == 429]
        refusals = full or asked.refusals or [unavailable("no engine answers")]
        raise min(refusals, key=lambda refusal: refusal.retry_after_ms)

    async def _next(self, asked: Asked) -> Engine | None:
        """Whom to ask; None when there is nobody left."""
        clock = asyncio.get_running_loop().time
        model, wanted = asked.request.model, asked.wanted
        engine = pick(self._serving(model), asked.tried, clock(), wanted)
        if engine is None and any(refusal.status == 503 for refusal in asked.refusals):
            await self._look_again()
            engine = pick(self._serving(model), asked.tried, clock(), wanted)
        return engine

    async def _balance(self) -> None:
        """Whenever an engine may have got room, ask the others to give back what waits there."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            asked = give_backs([*self._members.values(), *self._leaving], clock())
            await asyncio.gather(*(_ask_back(one) for one in asked))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await self.refresh()
                self._looks += 1
                if self._looks % SUSPECT_EVERY == 0:
                    await self.suspect()
            except Exception:  # a gateway that follows its fleet no more would answer 503 for ever
                log.exception("looking after the engines failed; trying again in %g s", PROBE_INTERVAL_S)

    async def suspect(self) -> None:
        """Warn, once for each name, of a name whose only address has several engines behind it."""
        alone = {name: min(found) for name, found in self._behind.items() if len(found) == 1}
        for name, address in alone.items():
            member = self._members.get(address)
            if member is None or name in self._virtual:
                continue
            if await other_engine_behind(member.client, PROBE_TIMEOUT_S):
                self._virtual.add(name)
                log.warning(VIRTUAL, name, address)

    def _serving(self, model: str) -> list[Engine]:
        return [one for one in self._members.values() if one.info is not None and model in ("", one.info.model)]


def _unbegun(first: Message) -> pb.GenerateComplete | None:
    """The first message of an answer when it says that there will be none here: it was given back, or a drain cut it off."""
    if isinstance(first, pb.GenerateComplete) and first.finish_reason in _NOT_BEGUN and not first.completion_tokens:
        return first
    return None


async def _ask_back(asked: GiveBack) -> None:
    client = asked.source.client
    try:
        await client.give_back(asked.request_ids, asked.most, PROBE_TIMEOUT_S)
    except EngineError as error:  # what it has stays there
        log.info("%s gives no request back: %s", client.address, error)
    except Exception:  # a gateway that moves nothing any more would leave slots free for ever
        log.exception("asking %s to give requests back failed", client.address)


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
        loads = await engine.client.loads(PROBE_TIMEOUT_S)
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
    engine.take_word(loads)
    engine.model = info.model
    engine.info = None if loads.draining else info
    if before is None and not loads.draining:
        log.info("%s serves %s", engine.client.address, info.model)
