"""Engine processes for benchmarks: `python benchmarks/served.py SHAPE DEVICE FLAGS...` is one, with random weights.

The gRPC server, the front and the step process are the engine's own; only the weights were never on a disk. The vocabulary
is byte-level, of the shape's size. A model that is a file is served by `python -m headway_engine` as it is.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


def serve(shape: str, device: str, arguments: Sequence[str]) -> None:
    """Serve random weights of a shape until a signal. `arguments`: the engine's flags."""
    from headway_engine import logs, settings  # noqa: PLC0415 - the measuring process needs no engine
    from headway_engine.__main__ import engine_config  # noqa: PLC0415
    from headway_engine.bench.random_model import random_model  # noqa: PLC0415
    from headway_engine.server import process  # noqa: PLC0415
    from headway_engine.server.ports import EnginePort  # noqa: PLC0415

    async def start(given: settings.Settings) -> EnginePort:
        from headway_engine.runtime.engine import AsyncEngine  # noqa: PLC0415

        return await AsyncEngine.start(engine_config(given), partial(random_model, shape, device))

    logs.configure()
    code = asyncio.run(process.run(settings.parse(["--model", shape, *arguments], {}), start))
    sys.stdout.flush()
    os._exit(code)


def started(
    model: str, device: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """An engine in a process of its own. `model`: a shape, or a `.gguf` file."""
    if model.endswith(".gguf"):
        command = [sys.executable, "-m", "headway_engine", "--model", model, "--device", device, *arguments]
    else:
        command = [sys.executable, __file__, model, device, *arguments]
    return subprocess.Popen(command, env={**os.environ, **(environment or {})})  # noqa: S603 - our own programs


async def ready(address: str, engine: "subprocess.Popen[bytes]") -> None:
    """Wait until the model is loaded."""
    from headway_rpc.client import EngineClient, EngineError  # noqa: PLC0415 - the engine's process begins without

    async with asyncio.timeout(START_TIMEOUT_S), EngineClient(address) as client:
        while engine.poll() is None:
            try:
                await client.model_info()
            except EngineError:
                await asyncio.sleep(0.2)
            else:
                return
    raise RuntimeError(f"the engine ended with {engine.returncode}")


def stop(engine: "subprocess.Popen[bytes]") -> None:
    """Let it drain; end it when it does not."""
    engine.send_signal(signal.SIGTERM)
    try:
        engine.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        engine.kill()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
