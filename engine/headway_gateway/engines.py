"""The engines behind the gateway, and which of them gets a request.

Each is asked for its model every few seconds; one that answers is up. A request goes to the one that is up and has the
fewest of this gateway's requests in flight. An engine that refuses because it drains, is full or cannot be reached has
started nothing, so the request goes to the next one, as long as no token of an answer has come.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Self

import grpc

from headway_gateway.errors import Failure, of_call, unavailable
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
_STARTED_NOTHING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass(slots=True)
class Engine:
    """One engine, or one Service in front of several.

    Attributes:
        client: its connection.
        info: what it serves; None while it does not answer.
        in_flight: this gateway's requests that it works on.
        turn: when it was chosen last, to take turns among equals.
        full_until_s: it refused a request and asked not to be tried before this moment; others come first.
    """

    client: EngineClient
    info: pb.ModelInfo | None = None
    in_flight: int = 0
    turn: int = 0
    full_until_s: float = 0.0


def pick(engines: Iterable[Engine], tried: Sequence[Engine], now: float) -> Engine | None:
    """The least busy engine that is up and not tried yet; among equals the one that was chosen longest ago."""
    open_ = [engine for engine in engines if engine.info is not None and engine not in tried]
    return min(open_, key=lambda engine: (now < engine.full_until_s, engine.in_flight, engine.turn), default=None)


@dataclass(slots=True)
class Engines:
    """All of them; use it as a context manager."""

    addresses: Sequence[str]
    _members: list[Engine] = field(default_factory=list)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _probes: list[asyncio.Task[None]] = field(default_factory=list)
    _turns: int = 0

    async def __aenter__(self) -> Self:
        for address in self.addresses:
            engine = Engine(await self._stack.enter_async_context(EngineClient(address)))
            self._members.append(engine)
            await _probe(engine)
            self._probes.append(asyncio.create_task(_watch(engine)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._stack.aclose()

    def models(self) -> list[pb.ModelInfo]:
        """One for each served name."""
        found = {engine.info.model: engine.info for engine in self._members if engine.info is not None}
        return list(found.values())

    def template(self, model: str) -> str:
        """The chat template of a served model ("": the only one, or any).

        Raises:
            Failure: no engine is up, or none serves that model.
        """
        models = self.models()
        if not models:
            raise unavailable("no engine answers")
        chosen = next((info for info in models if model in ("", info.model)), None)
        if chosen is None:
            names = ", ".join(repr(info.model) for info in models)
            message = f"model must be one of {names}, got {model!r}"
            raise Failure(404, "invalid_request_error", message, "model", "model_not_found")
        return chosen.chat_template

    async def generate(self, request: pb.GenerateRequest, timeout_s: float) -> AsyncGenerator[Message]:
        """An answer; closing the iterator cancels the request.

        Raises:
            Failure: nobody took the request, or the one who did broke off.
        """
        tried: list[Engine] = []
        refusals: list[Failure] = []
        clock = asyncio.get_running_loop().time
        while (engine := pick(self._serving(request.model), tried, clock())) is not None:
            tried.append(engine)
            self._turns += 1
            engine.turn = self._turns
            engine.in_flight += 1
            begun = False
            try:
                async with aclosing(engine.client.generate(request, timeout_s)) as answer:
                    async for message in answer:
                        begun = True
                        yield message
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

    def _serving(self, model: str) -> list[Engine]:
        return [one for one in self._members if one.info is not None and model in ("", one.info.model)]


async def _watch(engine: Engine) -> None:
    while True:
        await asyncio.sleep(PROBE_INTERVAL_S)
        await _probe(engine)


async def _probe(engine: Engine) -> None:
    before = engine.info
    try:
        engine.info = await engine.client.model_info(PROBE_TIMEOUT_S)
    except EngineError as error:
        engine.info = None
        if before is not None:
            log.warning("%s does not answer any more: %s", engine.client.address, error)
    else:
        if before is None:
            log.info("%s serves %s", engine.client.address, engine.info.model)
