"""The operator's side of `EngineControl`: a channel per engine pod, GetStats each second, limits and drains.

Channels and histories belong to a pod's uid, so a pod that is replaced under its old name begins anew. `track` says which
pods of a fleet exist; it is called with every pass's fresh reads. `poll` asks all of them at once, each with a deadline
below the interval: a silent engine delays nobody and merely leaves no sample, so its latest one grows old.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from headway_operator.core.observed import EngineSample, PodView
from headway_operator.core.plan import LimitsPatch
from headway_operator.shell.kube import FleetKey
from headway_operator.shell.samples import History, decode, is_busy, limits_message
from headway_rpc import EngineControlStub, pb

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import EngineControlAsyncStub  # exists for type checkers only

log = logging.getLogger(__name__)

RPC_TIMEOUT_S = 2.0  # UpdateRuntimeConfig and the first answer of Drain
_CHANNEL_OPTIONS = (
    # A pod that has just become ready should be seen within a second, not after gRPC's two minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


class EngineError(Exception):
    """A control call that did not succeed.

    Attributes:
        code: the gRPC status name, or NO_ADDRESS when the pod cannot be called at all.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class EngineControl(Protocol):
    """What executing a plan needs of the engines. Methods raise `EngineError`."""

    async def set_limits(self, pod: PodView, limits: LimitsPatch, lease_s: int, expected_revision: int) -> None:
        """UpdateRuntimeConfig."""

    async def start_drain(self, pod: PodView, deadline_s: int) -> None:
        """Stop admission; returns as soon as the engine has confirmed it."""


@dataclass(slots=True)
class _Engine:
    """One tracked pod."""

    fleet: FleetKey
    pod: PodView
    channel: grpc.aio.Channel
    stub: "EngineControlAsyncStub"
    history: History


class Engines:
    """All engines of all fleets.

    Args:
        port: the control port.
        timeout_s: deadline of one GetStats.
    """

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._by_uid: dict[str, _Engine] = {}
        self._by_fleet: dict[FleetKey, frozenset[str]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def track(self, fleet: FleetKey, pods: Iterable[PodView], window_s: float) -> None:
        """Follow exactly these pods of a fleet from now on."""
        callable_pods = {pod.uid: pod for pod in pods if pod.ip and pod.phase == "Running"}
        for uid in self._by_fleet.get(fleet, frozenset()) - callable_pods.keys():
            self._forget(uid)
        for uid, pod in callable_pods.items():
            engine = self._by_uid.get(uid)
            if engine is None or engine.pod.ip != pod.ip:
                self._forget(uid)
                self._by_uid[uid] = self._open(fleet, pod, window_s)
            else:
                engine.pod = pod
                engine.history.window_s = window_s
        if callable_pods:
            self._by_fleet[fleet] = frozenset(callable_pods)
        else:
            self._by_fleet.pop(fleet, None)

    def samples(self, fleet: FleetKey) -> Mapping[str, tuple[EngineSample, ...]]:
        """Per pod name the samples, oldest first; pods without one are left out."""
        engines = (self._by_uid[uid] for uid in self._by_fleet.get(fleet, frozenset()))
        return {engine.pod.name: engine.history.view() for engine in engines if len(engine.history)}

    def oldest_sample_age_s(self, fleet: FleetKey, now_s: float) -> float | None:
        """The age of the stalest pod's newest sample; None when no pod has one."""
        latest = [self._by_uid[uid].history.latest for uid in self._by_fleet.get(fleet, frozenset())]
        ages = [now_s - sample.taken_s for sample in latest if sample is not None]
        return max(ages, default=None)

    async def poll(self) -> frozenset[FleetKey]:
        """Ask every engine once; returns the fleets whose answers deserve a pass soon."""
        engines = tuple(self._by_uid.values())
        busy = await asyncio.gather(*(self._sample(engine) for engine in engines))
        return frozenset(engine.fleet for engine, is_news in zip(engines, busy, strict=True) if is_news)

    async def set_limits(self, pod: PodView, limits: LimitsPatch, lease_s: int, expected_revision: int) -> None:
        """See `EngineControl`."""
        engine = self._engine(pod)
        request = pb.UpdateRuntimeConfigRequest(
            expected_revision=expected_revision, limits=limits_message(limits), lease_seconds=lease_s
        )
        try:
            config = await engine.stub.UpdateRuntimeConfig(request, timeout=RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise EngineError(error.code().name, error.details() or "") from error
        engine.history.add_config(config)

    async def start_drain(self, pod: PodView, deadline_s: int) -> None:
        """See `EngineControl`. The engine goes on draining after the stream of progress is cancelled."""
        call = self._engine(pod).stub.Drain(pb.DrainRequest(deadline_seconds=deadline_s))
        try:
            async with asyncio.timeout(RPC_TIMEOUT_S):
                await call.read()
        except TimeoutError as error:
            raise EngineError("DEADLINE_EXCEEDED", f"no answer to Drain within {RPC_TIMEOUT_S:g} s") from error
        except grpc.aio.AioRpcError as error:
            raise EngineError(error.code().name, error.details() or "") from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close every channel."""
        engines = tuple(self._by_uid.values())
        self._by_uid.clear()
        self._by_fleet.clear()
        await asyncio.gather(*(engine.channel.close() for engine in engines), *self._closing)

    async def _sample(self, engine: _Engine) -> bool:
        try:
            stats = await engine.stub.GetStats(pb.GetStatsRequest(), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            log.debug("no statistics from %s/%s: %s", engine.fleet, engine.pod.name, error.code().name)
            return False
        except asyncio.CancelledError:
            # Closing a channel cancels its calls; only our own cancellation may pass.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return False
        before = engine.history.latest
        sample = decode(stats, asyncio.get_running_loop().time())
        engine.history.add(sample)
        return is_busy(sample, before)

    def _engine(self, pod: PodView) -> _Engine:
        engine = self._by_uid.get(pod.uid)
        if engine is None:
            raise EngineError("NO_ADDRESS", f"pod {pod.name} ({pod.phase or 'no phase'}) has no address to call")
        return engine

    def _open(self, fleet: FleetKey, pod: PodView, window_s: float) -> _Engine:
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        channel = grpc.aio.insecure_channel(f"{host}:{self._port}", options=_CHANNEL_OPTIONS)
        return _Engine(fleet, pod, channel, EngineControlStub(channel), History(window_s))

    def _forget(self, uid: str) -> None:
        engine = self._by_uid.pop(uid, None)
        if engine is not None:
            # Closing waits for the transport; nobody needs to wait with it.
            task = asyncio.get_running_loop().create_task(engine.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
