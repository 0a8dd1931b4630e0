"""One client's share of an open-loop test: each request is sent when it is due, whatever became of those before it."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from headway_cli.bench.report import Record
from headway_cli.bench.workload import Arrival, prompt_ids
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

CONNECT_TIMEOUT_S = 10.0
WARMUP = Arrival(index=-1, at_s=0.0, input_tokens=128, output_tokens=16)


@dataclass(frozen=True, slots=True)
class Share:
    """What one client process sends.

    Attributes:
        addresses: engines; requests go round them.
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


Send = Callable[[pb.GenerateRequest], AsyncGenerator[Message]]


class LoadClient:
    """Connections and requests of one client; use it as a context manager, then `run`."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._stack = AsyncExitStack()
        self._senders: list[Send] = []
        # Made beforehand: building a long prompt takes a millisecond that no request should wait for.
        self._requests = [_request(share, arrival) for arrival in share.schedule]

    async def __aenter__(self) -> Self:
        for address in self._share.addresses:
            client = await self._stack.enter_async_context(EngineClient(address))
            await client.wait_ready(CONNECT_TIMEOUT_S)
            self._senders.append(await self._sender(client))
        await asyncio.gather(
            *(
                _warm_up(send, _request(self._share, WARMUP))
                for send in self._senders
                for _ in range(self._share.warmup)
            )
        )
        return self

    async def __aexit__(self, *exit_details: object) -> None:
        await self._stack.aclose()

    async def run(self, start_s: float) -> list[Record]:
        """Send everything; `start_s` is the monotonic time that the schedule counts from."""
        running: list[asyncio.Task[Record]] = []
        for arrival, request in zip(self._share.schedule, self._requests, strict=True):
            wait_s = start_s + arrival.at_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            send = self._senders[arrival.index % len(self._senders)]
            running.append(asyncio.create_task(_one(send, arrival, request, start_s)))
        return list(await asyncio.gather(*running))

    async def _sender(self, client: EngineClient) -> Send:
        if self._share.mux:
            mux = await self._stack.enter_async_context(client.mux())
            return mux.generate
        timeout_s = self._share.timeout_s
        return lambda request: client.generate(request, timeout_s)


async def _one(send: Send, arrival: Arrival, request: pb.GenerateRequest, start_s: float) -> Record:
    sent_s = time.monotonic() - start_s
    times: list[float] = []
    tokens = 0
    status = "UNKNOWN"
    try:
        async with aclosing(send(request)) as answer:
            async for message in answer:
                if isinstance(message, pb.GenerateComplete):
                    status = _status(message)
                    new_tokens = message.completion_tokens - tokens
                else:
                    new_tokens = len(message.token_ids)
                if new_tokens:
                    tokens += new_tokens
                    times.append(time.monotonic() - start_s)
    except EngineError as error:
        status = error.code.name
    return Record(
        arrival_s=arrival.at_s,
        sent_s=sent_s,
        first_s=times[0] if times else None,
        last_s=times[-1] if times else None,
        tokens=tokens,
        gaps_ms=tuple((after - before) * 1000 for before, after in pairwise(times)),
        status=status,
    )


async def _warm_up(send: Send, request: pb.GenerateRequest) -> None:
    async for _ in send(request):
        pass


def _request(share: Share, arrival: Arrival) -> pb.GenerateRequest:
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
