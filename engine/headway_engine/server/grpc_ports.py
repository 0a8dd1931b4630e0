"""The two gRPC ports, each with grpc.health.v1 and reflection.

They open before the model is loaded: the health service then says NOT_SERVING and every other call is answered
UNAVAILABLE. While draining, the data port is NOT_SERVING and the control port still serves: the operator reads the
number of streams in flight there.
"""

import asyncio

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headway_engine.server.control_service import ControlService
from headway_engine.server.data_service import DataService
from headway_engine.server.lifecycle import Lifecycle, Phase
from headway_engine.server.readable import Readable
from headway_engine.settings import Settings, SettingsError
from headway_rpc import add_EngineControlServicer_to_server, add_EngineServicer_to_server, pb

DATA_SERVICE = pb.DESCRIPTOR.services_by_name["Engine"].full_name
CONTROL_SERVICE = pb.DESCRIPTOR.services_by_name["EngineControl"].full_name

# A prompt of 131,072 token ids takes about 400 kB; large messages are parsed on the event loop, so no more than needed.
MAX_RECEIVE_BYTES = 1 << 20
MAX_PENDING_CALLS = 10_000  # 10 kB each
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # Two engines on one port would share its connections by chance.
    ("grpc.so_reuseport", 0),
    # Clients may ping every 10 s, also on a connection without calls, to notice a dead engine.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The engine notices a dead client, whose streams would otherwise run to their end: ping after 30 s, give up after 10.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Calls that wait for the event loop. From 1,000 on gRPC would drop some unseen, as CANCELLED, at random: here they wait
    # for their answer, be it that the queue is full.
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
)


class GrpcPorts:
    """Both servers; `data_port` and `control_port` are the bound ones."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle) -> None:
        self.data = DataService(lifecycle, settings.served_model_name)
        self._lifecycle = lifecycle
        self._data_server = grpc.aio.server(interceptors=[Readable()], options=(*_OPTIONS, *_age_options(settings)))
        self._control_server = grpc.aio.server(interceptors=[Readable()], options=_OPTIONS)
        self._data_health = health.aio.HealthServicer()
        self._control_health = health.aio.HealthServicer()
        self._tasks: set[asyncio.Task[None]] = set()
        add_EngineServicer_to_server(self.data, self._data_server)
        add_EngineControlServicer_to_server(ControlService(lifecycle), self._control_server)
        _add_standard_services(self._data_server, self._data_health, DATA_SERVICE)
        _add_standard_services(self._control_server, self._control_health, CONTROL_SERVICE)
        self.data_port = _listen(self._data_server, settings.host, settings.port, "--port")
        self.control_port = _listen(self._control_server, settings.host, settings.control_port, "--control-port")

    async def start(self) -> None:
        """Answer from now on."""
        await self._report_health()
        await self._data_server.start()
        await self._control_server.start()
        self._lifecycle.on_change(self._phase_changed)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those that are open `grace_s` seconds, then cut them."""
        await asyncio.gather(self._data_server.stop(grace_s), self._control_server.stop(grace_s), *self._tasks)

    def _phase_changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._report_health())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_health(self) -> None:
        phase = self._lifecycle.phase
        await _set(self._data_health, DATA_SERVICE, phase is Phase.SERVING)
        await _set(self._control_health, CONTROL_SERVICE, self._lifecycle.engine is not None)


def _age_options(settings: Settings) -> tuple[tuple[str, int], ...]:
    """A Service balances connections, not calls: a client that keeps its connection would never meet a new pod.

    gRPC spreads the age by 10 % so that clients do not return together. The grace after it stays gRPC's default, without
    end: an old connection takes no new calls, and the calls on it end in their own time.
    """
    age_ms = settings.max_connection_age_seconds * 1000
    return (("grpc.max_connection_age_ms", age_ms),) if age_ms else ()


def _add_standard_services(server: grpc.aio.Server, servicer: health.aio.HealthServicer, service: str) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


async def _set(servicer: health.aio.HealthServicer, service: str, serving: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    await servicer.set(service, status)
    await servicer.set("", status)


def _listen(server: grpc.aio.Server, host: str, port: int, flag: str) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise SettingsError(f"{flag}: cannot listen on {address}; is it in use?") from None
