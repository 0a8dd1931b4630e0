"""One engine process from its first port to its exit code.

Start: HTTP (`/readyz` says loading), gRPC (health NOT_SERVING), load the model, serving. Stop, on SIGTERM or SIGINT:
not ready and NOT_SERVING, admission closed, wait until no stream is open or the drain timeout is over, stop the engine,
close the ports. A second signal ends the process at once. When the step loop ends by itself, its streams are told and the
process ends too: a container that is started again serves sooner than one that waits for its liveness probe.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Literal

from headway_engine.runtime.config import ModelLoadError
from headway_engine.runtime.stats import StatsSnapshot
from headway_engine.server import metrics
from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.http import HttpServer
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.server.ports import EnginePort
from headway_engine.settings import Settings, SettingsError

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_SETTINGS = 2
EXIT_NO_MODEL = 3
EXIT_NO_STEPS = 4
TERMINATION_LOG = Path("/dev/termination-log")
# Kubernetes shows this much of a termination message.
TERMINATION_LOG_BYTES = 4096
# After the step loop has ended: what the last messages of its streams may take to slow readers.
LAST_WORDS_S = 5.0
# After the last stream: what a call that is just being refused may still take.
CLOSE_GRACE_S = 1.0
# A scrape waits this long for a busy event loop.
SNAPSHOT_TIMEOUT_S = 2.0

log = logging.getLogger("headway.engine")

StartEngine = Callable[[Settings], Awaitable[EnginePort]]


async def run(settings: Settings, start_engine: StartEngine) -> int:
    """Serve until a signal or a failure to load; returns the exit code."""
    lifecycle = Lifecycle()
    stop_asked = _catch_signals()
    http = _open_http(settings, lifecycle)
    http.start()
    ports = GrpcPorts(settings, lifecycle)
    try:
        await ports.start()
        log.info(
            "ports are open, loading the model",
            extra={"port": ports.data_port, "control_port": ports.control_port, "http_port": http.port},
        )
        return await _load_and_serve(settings, start_engine, lifecycle, ports, stop_asked)
    finally:
        await ports.stop(CLOSE_GRACE_S)
        http.stop()


async def _load_and_serve(
    settings: Settings, start_engine: StartEngine, lifecycle: Lifecycle, ports: GrpcPorts, stop_asked: asyncio.Event
) -> int:
    loading = asyncio.ensure_future(start_engine(settings))
    stopping = asyncio.create_task(stop_asked.wait())
    started = asyncio.get_running_loop().time()
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        log.info("stopped while the model was loading")
        loading.cancel()
        return EXIT_OK
    try:
        engine = loading.result()
    except ModelLoadError as error:
        return _failed(stopping, str(error), EXIT_NO_MODEL)
    except ValueError as error:
        # Limits that only the runtime can check: they were given as flags all the same.
        return _failed(stopping, str(error), EXIT_BAD_SETTINGS)
    # What is there by now lives as long as the process: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    lifecycle.loaded(engine)
    seconds = round(asyncio.get_running_loop().time() - started, 2)
    log.info("ready", extra={"model": settings.served_model_name, "load_seconds": seconds})
    ended = asyncio.create_task(engine.wait_ended())
    await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        return await _give_up(stopping, lifecycle, ports, engine)
    ended.cancel()
    await _drain(settings, lifecycle, ports, engine)
    return EXIT_OK


async def _give_up(
    stopping: "asyncio.Future[Literal[True]]", lifecycle: Lifecycle, ports: GrpcPorts, engine: EnginePort
) -> int:
    detail = engine.health().detail
    lifecycle.start_drain()
    await ports.data.wait_closed(LAST_WORDS_S)
    await engine.stop()
    return _failed(stopping, detail, EXIT_NO_STEPS)


def _failed(stopping: "asyncio.Future[Literal[True]]", message: str, code: int) -> int:
    stopping.cancel()
    report_failure(message)
    return code


async def _drain(settings: Settings, lifecycle: Lifecycle, ports: GrpcPorts, engine: EnginePort) -> None:
    clock = asyncio.get_running_loop().time
    ends_at = clock() + settings.drain_timeout_seconds
    log.info("draining", extra={"in_flight": engine.loads().num_total})
    lifecycle.start_drain()
    idle = await engine.wait_idle(float(settings.drain_timeout_seconds))
    closed = await ports.data.wait_closed(max(0.0, ends_at - clock()))
    if not (idle and closed):
        log.warning("the drain timeout is over, streams are cut", extra={"in_flight": engine.loads().num_total})
    await engine.stop()
    log.info("stopped", extra={"clean": idle and closed})


def report_failure(message: str) -> None:
    """Say why the process ends: one line to the log and, in a pod, to the termination message."""
    line = " ".join(message.split())
    log.error(line)
    if TERMINATION_LOG.exists() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_bytes(line.encode()[:TERMINATION_LOG_BYTES])


def _catch_signals() -> asyncio.Event:
    stop_asked = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop_asked.is_set():
            log.warning("second %s: ending at once", number.name)
            os._exit(128 + number)
        stop_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop_asked


def _open_http(settings: Settings, lifecycle: Lifecycle) -> HttpServer:
    loop = asyncio.get_running_loop()

    async def take_snapshot(engine: EnginePort) -> StatsSnapshot:
        return engine.stats()

    def snapshot() -> StatsSnapshot | None:
        # Called in the HTTP thread; the engine's figures belong to the event loop.
        engine = lifecycle.engine
        if engine is None:
            return None
        future = asyncio.run_coroutine_threadsafe(take_snapshot(engine), loop)
        try:
            return future.result(SNAPSHOT_TIMEOUT_S)
        except FutureTimeoutError:
            future.cancel()
            return None

    render = metrics.renderer(snapshot, settings.served_model_name)
    try:
        return HttpServer(settings.host, settings.http_port, lifecycle.ready, lifecycle.alive, render)
    except OSError as error:
        address = f"{settings.host}:{settings.http_port}"
        raise SettingsError(f"--http-port: cannot listen on {address}: {error.strerror}") from None
