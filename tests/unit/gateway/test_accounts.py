"""What the gateway counts for each engine comes back to nothing, whatever happens to requests there."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import grpc
from hypothesis import given
from hypothesis import strategies as st

from headway_gateway.engine import Engine
from headway_gateway.engines import Engines
from headway_gateway.errors import Failure
from headway_rpc import pb
from headway_rpc.client import EngineClient, EngineError, Message

KINDS = (pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_REALTIME, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH)
STALL = None
Event = Message | EngineError | None
ANSWER: tuple[Event, ...] = (
    pb.GenerateChunk(text="a"),
    pb.GenerateChunk(text="b"),
    pb.GenerateComplete(finish_reason=pb.STOP, completion_tokens=2),
)
# What an engine may do with a request.
FATES: tuple[tuple[Event, ...], ...] = (
    ANSWER,
    ANSWER[:1],
    (pb.GenerateComplete(finish_reason=pb.STOP, completion_tokens=1),),
    (pb.GenerateComplete(finish_reason=pb.ERROR),),
    (pb.GenerateComplete(finish_reason=pb.GIVEN_BACK),),
    (pb.GenerateComplete(finish_reason=pb.ABORT),),
    (EngineError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", 1),),
    (EngineError(grpc.StatusCode.CANCELLED, "dropped"),),
    (EngineError(grpc.StatusCode.INVALID_ARGUMENT, "text is wrong"),),
    (ANSWER[0], EngineError(grpc.StatusCode.UNAVAILABLE, "gone")),
    (ANSWER[0], STALL),
    (STALL,),
    (),
)


Script = tuple[list[tuple[Event, ...]], list["pb.Priority.ValueType"]]


@dataclass
class Scripted:
    """A client whose engine does what the fates say, one for each request, and then answers."""

    fates: list[tuple[Event, ...]]
    words: list["pb.Priority.ValueType"]  # default classes that it tells, one at each request
    address: str = "scripted"
    engine: Engine | None = None

    async def generate(self, request: pb.GenerateRequest, _: float) -> AsyncGenerator[Message]:
        assert self.engine is not None
        fate = self.fates.pop() if self.fates else ANSWER
        if self.words:
            default, boot_id = self.words.pop(), str(len(self.words) // 2)
            self.engine.take_word(pb.Loads(default_class=default, boot_id=boot_id, room_for_batch=3))
        for event in fate:
            await asyncio.sleep(0)
            if event is STALL:
                await asyncio.Event().wait()
            elif isinstance(event, EngineError):
                raise event
            else:
                yield event

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class Asking:
    """A client's request: its class, the bytes of its prompt, and after how many turns of the loop it is gone."""

    kind: "pb.Priority.ValueType"
    size: int
    gone_after: int


async def ask(pool: Engines, asking: Asking) -> None:
    request = pb.GenerateRequest(text="x" * asking.size, priority=asking.kind)
    try:
        async with aclosing(pool.generate(request, 60.0)) as answer:
            async for _ in answer:
                pass
    except Failure:
        pass


async def live(scripts: Sequence[Script], askings: Sequence[Asking]) -> list[Engine]:
    """The engines after all requests have ended or their clients have gone."""
    pool = Engines([])
    for number, (fates, words) in enumerate(scripts):
        client = Scripted(list(fates), list(words))
        client.engine = Engine(cast("EngineClient", client), pb.ModelInfo(model="m"), room=1)
        pool._members[str(number)] = client.engine
    tasks = [asyncio.create_task(ask(pool, asking)) for asking in askings]
    for turn in range(30):
        for task, asking in zip(tasks, askings, strict=True):
            if turn == asking.gone_after:
                task.cancel()
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return list(pool._members.values())


SCRIPTS = st.tuples(st.lists(st.sampled_from(FATES), max_size=8), st.lists(st.sampled_from(KINDS), max_size=8))
ASKINGS = st.builds(Asking, st.sampled_from(KINDS), st.integers(0, 3000), st.integers(0, 12))


@given(st.lists(SCRIPTS, min_size=1, max_size=3), st.lists(ASKINGS, min_size=1, max_size=12))
def test_nothing_is_left_of_requests_that_were_answered_refused_moved_cut_off_or_given_up(
    scripts: list[Script], askings: list[Asking]
) -> None:
    for engine in asyncio.run(live(scripts, askings)):
        assert engine.in_flight == 0
        assert not any(one.requests or one.tokens for one in engine.unanswered.values())
