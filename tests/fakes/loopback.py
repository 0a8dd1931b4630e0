"""The engine's real gRPC server on loopback, in front of a fake or a real engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.server.ports import EnginePort
from headway_engine.settings import parse

ARGV = ["--model", "/m/fake.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"]


@asynccontextmanager
async def served(engine: EnginePort) -> AsyncIterator[str]:
    """The address of the data port; the engine and the ports are stopped at the end."""
    lifecycle = Lifecycle()
    ports = GrpcPorts(parse(ARGV, {}), lifecycle)
    await ports.start()
    lifecycle.loaded(engine)
    try:
        yield f"127.0.0.1:{ports.data_port}"
    finally:
        await engine.stop()
        await ports.stop(0)
