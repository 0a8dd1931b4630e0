"""An engine's control port on loopback, without an engine: answers what it is told to."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio

from headway_rpc import EngineControlServicer, add_EngineControlServicer_to_server, pb

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def stats(boot_id: str = "boot-1", revision: int = 1, running: int = 0, received: int = 0) -> pb.Stats:
    limits = pb.Limits(max_num_seqs=8, max_num_batched_tokens=256, batch_wait_ms=0, max_queued_requests=64)
    return pb.Stats(
        boot_id=boot_id,
        loads=pb.Loads(num_running=running, token_usage=0.25),
        ttft=pb.Histogram(buckets=[0, 3, 1], count=4, sum_ms=2.0),
        requests_received=received,
        requests_finished={"stop": 2, "length": 1},
        requests_rejected={"queue_full": 5},
        config=pb.RuntimeConfig(revision=revision, effective=limits, baseline=limits),
    )


@dataclass
class FakeEngineControl(EngineControlServicer):
    """What the operator meets behind a pod's control port."""

    answer: pb.Stats = field(default_factory=stats)
    hang: bool = False
    updates: list[pb.UpdateRuntimeConfigRequest] = field(default_factory=list)
    drains: list[int] = field(default_factory=list)
    asked: int = 0

    async def GetStats(  # noqa: N802  gRPC's name
        self, request: pb.GetStatsRequest, context: Context
    ) -> pb.Stats:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        return self.answer

    async def GetRuntimeConfig(  # noqa: N802  gRPC's name
        self, request: pb.GetRuntimeConfigRequest, context: Context
    ) -> pb.RuntimeConfig:
        return self.answer.config

    async def UpdateRuntimeConfig(  # noqa: N802  gRPC's name
        self, request: pb.UpdateRuntimeConfigRequest, context: Context
    ) -> pb.RuntimeConfig:
        config = self.answer.config
        if request.expected_revision != config.revision:
            await context.abort(grpc.StatusCode.ABORTED, f"the revision is {config.revision}")
        self.updates.append(request)
        config.revision += 1
        config.effective.MergeFrom(request.limits)
        if request.lease_seconds:
            config.lease_remaining_seconds = float(request.lease_seconds)
        else:
            config.baseline.MergeFrom(request.limits)
        return config

    async def Drain(  # noqa: N802  gRPC's name
        self, request: pb.DrainRequest, context: Context
    ) -> AsyncIterator[pb.DrainProgress]:
        self.drains.append(request.deadline_seconds)
        self.answer.loads.draining = True
        yield pb.DrainProgress(in_flight=self.answer.loads.num_running)
        await asyncio.Event().wait()

    async def serve(self, address: str) -> tuple[grpc.aio.Server, int]:
        """Listen on `host:port` (0: any free port)."""
        server = grpc.aio.server()
        add_EngineControlServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        await server.start()
        return server, port
