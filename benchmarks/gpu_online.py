"""The online case on a GPU: `python benchmarks/gpu_online.py FOLDER SHAPE --rates R [R ...]`.

Starts an engine with its gRPC server in a process of its own (random weights of the shape, a byte-level vocabulary of the
shape's size, no prefix cache), sends it the open-loop traffic of `headway bench online` from client processes over loopback,
rate after rate, and ends at the first one that is not served well. Text is detokenized and streamed.

    capacity    the highest rate at which 99 % of the requests have TTFT <= 500 ms and TPOT <= 50 ms

Needs torch, triton, tokenizers, numpy, grpcio with its health and reflection packages, and prometheus-client; `engine` and
`operator` on PYTHONPATH. The peers' figures are of six client processes.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

GOOD_SHARE = 0.99
START_TIMEOUT_S = 120.0
CLIENTS = 6
QUEUE = 8192  # requests: an open loop refuses nobody
LATENCIES = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "gap": "gap_ms", "send lag": "send_lag_ms"}


def main(argv: list[str]) -> None:
    """Serve, or measure."""
    parser = argparse.ArgumentParser(description="Measure the online case.")
    parser.add_argument("folder", type=Path, help="for the results; with --serve, not used")
    parser.add_argument("shape")
    parser.add_argument("--rates", type=float, nargs="+", default=[], metavar="R", help="requests/s, ascending")
    parser.add_argument("--mux", action="store_true", help="one GenerateMux stream per client")
    parser.add_argument("--max-seqs", type=int, default=256, metavar="N", help="running sequences (256)")
    parser.add_argument("--max-tokens", type=int, default=2048, metavar="N", help="tokens of a step (2048)")
    parser.add_argument("--profile", default="throughput", help="of the steps: throughput or low-tail (throughput)")
    parser.add_argument("--itl-target", type=int, default=50, metavar="MS", help="that low-tail aims at (50)")
    parser.add_argument("--duration", type=float, default=25.0, metavar="S", help="seconds of arrivals (25)")
    parser.add_argument("--device", default="cuda", help="where the model runs (cuda)")
    parser.add_argument("--port", type=int, default=50051, metavar="N", help="of the engine (50051)")
    parser.add_argument("--serve", action="store_true", help="be the engine's process")
    options = parser.parse_args(argv)
    if options.serve:
        serve(options)
    else:
        measure(options)


# ---- the engine's process -------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """Serve random weights until a signal."""
    from headway_engine import logs, settings  # noqa: PLC0415 - the measuring process needs no engine
    from headway_engine.__main__ import engine_config  # noqa: PLC0415
    from headway_engine.bench.random_model import random_model  # noqa: PLC0415
    from headway_engine.server import process  # noqa: PLC0415
    from headway_engine.server.ports import EnginePort  # noqa: PLC0415

    async def start(given: settings.Settings) -> EnginePort:
        from headway_engine.runtime.engine import AsyncEngine  # noqa: PLC0415

        return await AsyncEngine.start(engine_config(given), partial(random_model, options.shape, options.device))

    arguments = ["--model", options.shape, "--port", str(options.port), "--prefix-cache", "off"]
    arguments += ["--host", "127.0.0.1", "--control-port", "0", "--http-port", "0"]
    arguments += ["--capacity-max-num-seqs", str(options.max_seqs)]
    arguments += ["--capacity-max-num-batched-tokens", str(options.max_tokens)]
    arguments += ["--capacity-max-queued-requests", str(QUEUE), "--max-queued-requests", str(QUEUE)]
    arguments += ["--profile", options.profile, "--itl-target-ms", str(options.itl_target)]
    logs.configure()
    code = asyncio.run(process.run(settings.parse(arguments, {}), start))
    sys.stdout.flush()
    os._exit(code)


# ---- the measuring process ------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> None:
    """Start the engine, send traffic, save."""
    from headway_engine.bench import report  # noqa: PLC0415 - the engine's process begins without

    command = [sys.executable, __file__, str(options.folder), options.shape, "--serve", "--port", str(options.port)]
    command += ["--max-seqs", str(options.max_seqs), "--max-tokens", str(options.max_tokens)]
    command += ["--profile", options.profile, "--itl-target", str(options.itl_target), "--device", options.device]
    engine = subprocess.Popen(command)  # noqa: S603 - this file
    figures: list[report.Figure] = []
    prefix = f"{options.shape} online" if options.mux else f"{options.shape} online calls"
    capacity = 0.0
    try:
        asyncio.run(ready(f"127.0.0.1:{options.port}", engine))
        for rate in options.rates:
            found = online(rate, options)
            values = {
                "good": ("%", found["good_share"] * 100),
                "output": ("tok/s", found["output_tokens_per_s"]),
                "failed": ("requests", found["failed"]),
            }
            for label, key in LATENCIES.items():
                values |= {f"{label} {share}": ("ms", value) for share, value in found[key].items()}
            name = f"{prefix} r={rate:g}"
            figures += [report.Figure(f"{name} {label}", unit, v, (v,)) for label, (unit, v) in values.items()]
            print(
                name,
                found["statuses"],
                found["errors"],
                {label: round(v, 2) for label, (_, v) in values.items()},
                flush=True,
            )
            if found["good_share"] < GOOD_SHARE:
                break
            capacity = rate
    finally:
        engine.send_signal(signal.SIGTERM)
        try:
            engine.wait(20)
        except subprocess.TimeoutExpired:
            engine.kill()
    figures.append(report.Figure(f"{prefix} capacity", "req/s", capacity, (capacity,)))
    names = ("shape", "mux", "duration", "profile", "itl_target", "max_seqs", "max_tokens", "rates")
    settings = {"clients": CLIENTS, **{name: getattr(options, name) for name in names}}
    result = report.Report(f"online-{options.shape}", settings, tuple(figures))
    now = datetime.now(UTC)
    report.save(report.as_lines(result, report.environment(), now), result, now, options.folder)


async def ready(address: str, engine: "subprocess.Popen[bytes]") -> None:
    """Wait until the model is loaded."""
    from headway_rpc.client import EngineClient, EngineError  # noqa: PLC0415

    async with asyncio.timeout(START_TIMEOUT_S), EngineClient(address) as client:
        while engine.poll() is None:
            try:
                await client.model_info()
            except EngineError:
                await asyncio.sleep(0.2)
            else:
                return
    raise RuntimeError(f"the engine ended with {engine.returncode}")


def online(rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """What `headway bench online --json` prints."""
    command = [sys.executable, "-c", "from headway_cli.main import main; main()", "bench", "online", "--json"]
    command += ["--address", f"127.0.0.1:{options.port}", "--rate", str(rate), "--duration", str(options.duration)]
    command += ["--clients", str(CLIENTS), "--warmup", "8", *(["--mux"] if options.mux else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own command
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
