"""The `Engine` service: what clients call on the data port.

`Generate` and `GenerateMux` write through the context instead of yielding: when the client goes away, gRPC cancels the
handler at its await, in this very frame, and the `finally` runs at once. A yielding handler would be left suspended
until the garbage collector finds it.

A drain ends when no call is open (`wait_closed`), not when the engine is idle: the last chunks may still be on their
way to a slow reader. Idle `GenerateMux` calls end by themselves then, so that an open connection does not hold up a
restart.
"""

# The methods are named, documented and given their parameters by the proto.
# ruff: noqa: N802, D102, ARG002

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from headway_engine.core.request import Rejected
from headway_engine.server import convert, status
from headway_engine.server.intake import Intake
from headway_engine.server.lifecycle import NOT_LOADED, Lifecycle, Phase
from headway_engine.server.mux import MuxSession
from headway_engine.server.ports import EnginePort
from headway_rpc import EngineServicer, pb

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import _MaybeAsyncIterator, _ServicerContext


class DataService(EngineServicer):
    """Requests and tokens."""

    def __init__(self, lifecycle: Lifecycle, served_model: str) -> None:
        self._lifecycle = lifecycle
        self._intake = Intake(lifecycle, served_model)
        self._sessions: set[MuxSession] = set()
        self._open_calls = 0
        self._closed = asyncio.Event()
        self._closed.set()
        lifecycle.on_change(self._phase_changed)

    async def wait_closed(self, timeout_s: float) -> bool:
        """True when no stream is open, False when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True

    # The generated base class knows generators only; gRPC also takes a coroutine that writes.
    async def Generate(  # type: ignore[override]
        self, request: pb.GenerateRequest, context: "_ServicerContext"
    ) -> None:
        with self._call():
            stream = await self._intake.open(request, context.time_remaining())
            if isinstance(stream, Rejected):
                await status.abort(context, stream)
            try:
                async for item in stream:
                    await context.write(convert.to_response(item))
            finally:
                stream.cancel()

    async def GenerateMux(  # type: ignore[override]
        self, request_iterator: "_MaybeAsyncIterator[pb.MuxRequest]", context: "_ServicerContext"
    ) -> None:
        engine = await self._engine(context)
        commands: AsyncIterator[pb.MuxRequest] = request_iterator
        session = MuxSession(self._intake, engine.abort)
        with self._call():
            self._sessions.add(session)
            self._phase_changed()
            try:
                async with aclosing(session.frames(commands)) as frames:
                    async for frame in frames:
                        await context.write(frame)
            finally:
                self._sessions.discard(session)

    async def Abort(self, request: pb.AbortRequest, context: "_ServicerContext") -> pb.AbortResponse:
        engine = await self._engine(context)
        return pb.AbortResponse(aborted=sum(engine.abort(request_id) for request_id in request.request_ids))

    async def GiveBack(self, request: pb.GiveBackRequest, context: "_ServicerContext") -> pb.GiveBackResponse:
        (await self._engine(context)).give_back(request.request_ids, request.most)
        return pb.GiveBackResponse()

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: "_ServicerContext") -> pb.ModelInfo:
        return convert.to_model_info((await self._engine(context)).model_info())

    async def GetLoads(self, request: pb.GetLoadsRequest, context: "_ServicerContext") -> pb.Loads:
        return convert.to_loads((await self._engine(context)).loads())

    async def _engine(self, context: "_ServicerContext") -> EnginePort:
        engine = self._lifecycle.engine
        if engine is None:
            await status.abort(context, NOT_LOADED)
        return engine

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._open_calls += 1
        self._closed.clear()
        try:
            yield
        finally:
            self._open_calls -= 1
            if not self._open_calls:
                self._closed.set()

    def _phase_changed(self) -> None:
        if self._lifecycle.phase is Phase.DRAINING:
            for session in self._sessions:
                session.end_when_idle()
