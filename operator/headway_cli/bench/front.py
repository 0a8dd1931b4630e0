"""The front's share of a token, measured on a served engine: what the client waits for beside the engine's steps.

An answer says how long the engine took from the request's arrival to its first token (`ttft_ms`), and until its first step
began (`queue_ms`). So without a step model, and with prompts of several lengths:

    alone     client - (ttft - queue)       an idle engine: connection, way to the step process and back
    beside B  client - ttft                 the same without the way to the step process, which has the wait for a step in it

What the second has more than an idle engine's, over B, is what each stream adds: the tokens of a step leave one by one.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

from headway_cli.bench.engines import Engine, EnginePool, warm_up
from headway_cli.bench.load import WARMUP, Share, request
from headway_cli.bench.workload import Arrival
from headway_cli.errors import CliError
from headway_planner.steps import StepModel
from headway_rpc import pb

LENGTHS = (16, 128, 512)  # prompt tokens
REPEATS = 5  # of each
MOST_STREAMS = 64
STREAM_TOKENS = 512  # of a stream's answer at the most: longer than all probes take


@dataclass(frozen=True, slots=True)
class Front:
    """Milliseconds of a first token outside of the steps: on an idle engine, and more for each stream beside it."""

    alone_ms: float
    each_ms: float

    def on(self, model: StepModel) -> StepModel:
        """The model with this front."""
        return replace(model, first_token_ms=self.alone_ms, first_token_each_ms=self.each_ms)


@dataclass(frozen=True, slots=True)
class Probe:
    """One first token, milliseconds: at the client, and in the engine, its queue included."""

    client_ms: float
    ttft_ms: float
    queue_ms: float


def front(alone: Sequence[Probe], beside: Sequence[Probe], streams: int) -> Front:
    """From first tokens of an idle engine, and of one with so many streams."""
    outside = statistics.median(one.client_ms - one.ttft_ms for one in alone)
    more = statistics.median(one.client_ms - one.ttft_ms for one in beside) - outside
    alone_ms = statistics.median(one.client_ms - one.ttft_ms + one.queue_ms for one in alone)
    return Front(max(0.0, alone_ms), max(0.0, more) / streams)


async def measured(share: Share, max_len: int, slots: int) -> Front:
    """Probe an engine that has no other work, at the share's first address.

    Args:
        share: how to reach the engine, and what token ids it knows; its schedule is not sent.
        max_len: tokens of prompt and answer at the most.
        slots: sequences that the engine runs at once.

    Raises:
        CliError: a probe got no token.
        EngineError: the engine does not answer.
    """
    streams = max(1, min(MOST_STREAMS, slots // 2))
    lengths = [one for one in LENGTHS if one < max_len]
    async with EnginePool(share.timeout_s, share.mux) as pool:
        await pool.start(share.addresses[:1])
        (engine,) = pool.open
        await warm_up(pool.open, lambda: request(share, WARMUP), max(1, share.warmup))
        numbers = count(2)
        alone = [await _probe(engine, request(share, _arrival(numbers, one, 1))) for one in lengths * REPEATS]
        inputs = lengths[0]
        outputs = min(STREAM_TOKENS, max_len - inputs)
        answers = [request(share, _arrival(numbers, inputs, outputs)) for _ in range(streams)]
        async with _streaming(engine, answers):
            beside = [await _probe(engine, request(share, _arrival(numbers, one, 1))) for one in lengths * REPEATS]
    return front(alone, beside, streams)


@asynccontextmanager
async def _streaming(engine: Engine, answers: Sequence[pb.GenerateRequest]) -> AsyncIterator[None]:
    """These answers are being streamed inside."""
    begun = [asyncio.Event() for _ in answers]

    async def read(answer: pb.GenerateRequest, event: asyncio.Event) -> None:
        async for _ in engine.send(answer):
            event.set()

    tasks = [asyncio.create_task(read(*one)) for one in zip(answers, begun, strict=True)]
    try:
        await asyncio.gather(*(event.wait() for event in begun))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _probe(engine: Engine, prompt: pb.GenerateRequest) -> Probe:
    sent_s = time.monotonic()
    first_s: float | None = None
    async for message in engine.send(prompt):
        first_s = first_s or time.monotonic()
        if isinstance(message, pb.GenerateComplete):
            if not message.completion_tokens:
                raise CliError(f"a single request got no token: {message.error}")
            return Probe((first_s - sent_s) * 1000, message.ttft_ms, message.queue_ms)
    raise CliError("a single request got no answer")


def _arrival(numbers: Iterator[int], inputs: int, outputs: int) -> Arrival:
    # Before the schedule's own ones, so that its prompt is one that nothing else has.
    return Arrival(index=-next(numbers), at_s=0.0, input_tokens=inputs, output_tokens=outputs)
