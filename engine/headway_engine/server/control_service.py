"""The `EngineControl` service: what the operator calls on the control port."""

# The methods are named, documented and given their parameters by the proto.
# ruff: noqa: N802, D102, ARG002

import asyncio
import math
from typing import TYPE_CHECKING

from headway_engine.core.request import Rejected, StatusCode
from headway_engine.server import convert_control, status
from headway_engine.server.lifecycle import NOT_LOADED, Lifecycle
from headway_engine.server.ports import EnginePort
from headway_rpc import EngineControlServicer, pb

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import _ServicerContext

# How often `Drain` reports while nothing ends.
PROGRESS_INTERVAL_S = 1.0


class ControlService(EngineControlServicer):
    """Limits, statistics, drain."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def GetStats(self, request: pb.GetStatsRequest, context: "_ServicerContext") -> pb.Stats:
        return convert_control.to_stats((await self._engine(context)).stats())

    async def GetRuntimeConfig(
        self, request: pb.GetRuntimeConfigRequest, context: "_ServicerContext"
    ) -> pb.RuntimeConfig:
        return convert_control.to_runtime_config((await self._engine(context)).runtime_config())

    async def UpdateRuntimeConfig(
        self, request: pb.UpdateRuntimeConfigRequest, context: "_ServicerContext"
    ) -> pb.RuntimeConfig:
        engine = await self._engine(context)
        if not request.HasField("limits"):
            await status.abort(context, Rejected(StatusCode.INVALID_ARGUMENT, "limits is required"))
        expected = request.expected_revision if request.HasField("expected_revision") else None
        patch = convert_control.to_patch(request.limits)
        if isinstance(patch, Rejected):
            await status.abort(context, patch)
        result = await engine.update_limits(patch, request.lease_seconds, expected)
        if isinstance(result, Rejected):
            await status.abort(context, result)
        return convert_control.to_runtime_config(result)

    # The generated base class knows generators only; gRPC also takes a coroutine that writes.
    async def Drain(  # type: ignore[override]
        self, request: pb.DrainRequest, context: "_ServicerContext"
    ) -> None:
        engine = await self._engine(context)
        self._lifecycle.start_drain()
        clock = asyncio.get_running_loop().time
        ends_at = clock() + request.deadline_seconds if request.deadline_seconds else math.inf
        done = False
        while not done and clock() < ends_at:
            await context.write(pb.DrainProgress(in_flight=engine.loads().num_total))
            done = await engine.wait_idle(min(PROGRESS_INTERVAL_S, ends_at - clock()))
        await context.write(pb.DrainProgress(in_flight=engine.loads().num_total, done=done))

    async def _engine(self, context: "_ServicerContext") -> EnginePort:
        engine = self._lifecycle.engine
        if engine is None:
            await status.abort(context, NOT_LOADED)
        return engine
