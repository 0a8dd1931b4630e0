"""One client's share of an open-loop test: each request is sent when it is due, whatever became of those before it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

from headway_cli.bench.engines import Engine, EnginePool, warm_up
from headway_cli.bench.report import Record
from headway_cli.bench.workload import Arrival, prompt_ids
from headway_rpc import pb
from headway_rpc.client import EngineError

# An engine that drains answers UNAVAILABLE: the request has not begun and belongs elsewhere.
UNAVAILABLE = "UNAVAILABLE"
MAX_TRIES = 8
RETRY_S = 0.1  # times the number of tries so far
WARMUP = Arrival(index=-1, at_s=0.0, input_tokens=128, output_tokens=16)


@dataclass(frozen=True, slots=True)
class Share:
    """What one client process sends.

    Attributes:
        addresses: the engines at the start.
        schedule: this client's arrivals.
        seed: of the token ids.
        vocab_size: token ids are below it.
        temperature: of every request.
        timeout_s: deadline of every request.
        mux: one `GenerateMux` stream per engine instead of one call per request.
        warmup: requests to each engine that are not counted.
    """

    addresses: tuple[str, ...]
    schedule: tuple[Arrival, ...]
    seed: int
    vocab_size: int
    temperature: float
    timeout_s: float
    mux: bool
    warmup: int


class LoadClient:
    """The requests of one client; use it as a context manager, then `run`."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._pool = EnginePool(share.timeout_s, share.mux)
        # Made beforehand: building a long prompt takes a millisecond that no request should wait for.
        self._requests = [request(share, arrival) for arrival in share.schedule]

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        await self._pool.start(self._share.addresses)
        await warm_up(self._pool.open, lambda: request(self._share, WARMUP), self._share.warmup)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(kind, error, trace)

    async def follow(self, addresses: Sequence[str]) -> None:
        """Send new requests to these engines from now on."""
        await self._pool.follow(addresses)

    async def run(self, start_s: float) -> list[Record]:
        """Send everything; `start_s` is the monotonic time that the schedule counts from."""
        running: list[asyncio.Task[Record]] = []
        for arrival, request in zip(self._share.schedule, self._requests, strict=True):
            wait_s = start_s + arrival.at_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            running.append(asyncio.create_task(self._one(arrival, request, start_s)))
        return list(await asyncio.gather(*running))

    async def _one(self, arrival: Arrival, request: pb.GenerateRequest, start_s: float) -> Record:
        """Try until an engine takes it. What has begun to answer is never tried again: that would be another answer."""
        sent_s = time.monotonic() - start_s
        tried: list[str] = []
        while True:
            engine = self._pool.pick(tried)
            engine.in_flight += 1
            try:
                answer = await _listen(engine, request, start_s)
            finally:
                engine.in_flight -= 1
            tried.append(engine.address)
            if answer.status != UNAVAILABLE or answer.tokens or len(tried) >= MAX_TRIES:
                break
            # A fleet of one that is just replaced has nobody else for a moment.
            await asyncio.sleep(RETRY_S * len(tried))
        return Record(
            arrival_s=arrival.at_s,
            sent_s=sent_s,
            first_s=answer.times[0] if answer.times else None,
            last_s=answer.times[-1] if answer.times else None,
            tokens=answer.tokens,
            gaps_ms=tuple((after - before) * 1000 for before, after in pairwise(answer.times)),
            status=answer.status,
            error=answer.error,
            engine=engine.address,
            retries=len(tried) - 1,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one engine sent: when tokens came, how many, and how it ended; `error` is the engine's message, if it gave one."""

    times: list[float]
    tokens: int
    status: str
    error: str


async def _listen(engine: Engine, request: pb.GenerateRequest, start_s: float) -> _Answer:
    times: list[float] = []
    tokens = 0
    status, problem = "UNKNOWN", ""
    try:
        async with aclosing(engine.send(request)) as answer:
            async for message in answer:
                if isinstance(message, pb.GenerateComplete):
                    status, problem = _status(message), message.error
                    new_tokens = message.completion_tokens - tokens
                else:
                    new_tokens = len(message.token_ids)
                if new_tokens:
                    tokens += new_tokens
                    times.append(time.monotonic() - start_s)
    except EngineError as error:
        status, problem = error.code.name, str(error)
    return _Answer(times, tokens, status, problem)


def request(share: Share, arrival: Arrival) -> pb.GenerateRequest:
    """What is sent for an arrival; its prompt is the share's seed's."""
    return pb.GenerateRequest(
        request_id=uuid.uuid4().hex,
        tokenized=pb.TokenizedInput(input_ids=prompt_ids(share.seed, arrival, share.vocab_size)),
        sampling_params=pb.SamplingParams(
            max_tokens=arrival.output_tokens, temperature=share.temperature, ignore_eos=True
        ),
        timeout_ms=int(share.timeout_s * 1000),
    )


def _status(complete: pb.GenerateComplete) -> str:
    """An answer that ran to its end is OK; any other end is named."""
    if complete.finish_reason in (pb.STOP, pb.LENGTH):
        return "OK"
    return pb.FinishReason.Name(complete.finish_reason)
