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
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import served

from headway_engine.bench import report

GOOD_SHARE = 0.99
CLIENTS = 6
QUEUE = 8192  # requests: an open loop refuses nobody
LATENCIES = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "gap": "gap_ms", "send lag": "send_lag_ms"}


def main(argv: list[str]) -> None:
    """Measure."""
    measure(parser("Measure the online case.").parse_args(argv))


def parser(description: str) -> argparse.ArgumentParser:
    """The flags of an engine under online traffic."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("folder", type=Path, help="for the results")
    found.add_argument("shape")
    found.add_argument("--rates", type=float, nargs="+", default=[], metavar="R", help="requests/s, ascending")
    found.add_argument("--mux", action="store_true", help="one GenerateMux stream per client")
    found.add_argument("--max-seqs", type=int, default=256, metavar="N", help="running sequences (256)")
    found.add_argument("--max-tokens", type=int, default=2048, metavar="N", help="tokens of a step (2048)")
    found.add_argument("--profile", default="throughput", help="of the steps: throughput or low-tail (throughput)")
    found.add_argument("--itl-target", type=int, default=50, metavar="MS", help="that low-tail aims at (50)")
    found.add_argument("--duration", type=float, default=25.0, metavar="S", help="seconds of arrivals (25)")
    found.add_argument("--device", default="cuda", help="where the model runs (cuda)")
    found.add_argument("--port", type=int, default=50051, metavar="N", help="of the engine (50051)")
    found.add_argument("--control-port", type=int, default=50052, metavar="N", help="of its control (50052)")
    return found


def measure(options: argparse.Namespace) -> None:
    """Start the engine, send traffic, save."""
    engine = served.started(options.shape, options.device, flags(options))
    figures: list[report.Figure] = []
    prefix = f"{options.shape} online" if options.mux else f"{options.shape} online calls"
    capacity = 0.0
    try:
        asyncio.run(served.ready(f"127.0.0.1:{options.port}", engine))
        for rate in options.rates:
            found = online(rate, options)
            figures += told(f"{prefix} r={rate:g}", found)
            if found["good_share"] < GOOD_SHARE:
                break
            capacity = rate
    finally:
        served.stop(engine)
    figures.append(report.Figure(f"{prefix} capacity", "req/s", capacity, (capacity,)))
    names = ("shape", "mux", "duration", "profile", "itl_target", "max_seqs", "max_tokens", "rates")
    settings = {"clients": CLIENTS, **{name: getattr(options, name) for name in names}}
    result = report.Report(f"online-{options.shape}", settings, tuple(figures))
    now = datetime.now(UTC)
    report.save(report.as_lines(result, report.environment(), now), result, now, options.folder)


def told(name: str, found: dict[str, Any]) -> list[report.Figure]:
    """The figures of a run, printed on a line."""
    values = {
        "good": ("%", found["good_share"] * 100),
        "output": ("tok/s", found["output_tokens_per_s"]),
        "failed": ("requests", found["failed"]),
    }
    for label, key in LATENCIES.items():
        values |= {f"{label} {share}": ("ms", value) for share, value in found[key].items()}
    rounded = {label: round(value, 2) for label, (_, value) in values.items()}
    print(name, found["statuses"], found["errors"], rounded, flush=True)
    return [report.Figure(f"{name} {label}", unit, value, (value,)) for label, (unit, value) in values.items()]


def flags(options: argparse.Namespace) -> list[str]:
    """The engine's own."""
    found = ["--port", str(options.port), "--host", "127.0.0.1", "--http-port", "0"]
    found += ["--control-port", str(options.control_port)]
    found += ["--prefix-cache", "off", "--profile", options.profile, "--itl-target-ms", str(options.itl_target)]
    found += ["--capacity-max-num-seqs", str(options.max_seqs)]
    found += ["--capacity-max-num-batched-tokens", str(options.max_tokens)]
    return [*found, "--capacity-max-queued-requests", str(QUEUE), "--max-queued-requests", str(QUEUE)]


def online(rate: float, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """What `headway bench online --json` prints. `more`: flags of it."""
    command = [sys.executable, "-c", "from headway_cli.main import main; main()", "bench", "online", "--json"]
    command += ["--address", f"127.0.0.1:{options.port}", "--rate", str(rate), "--duration", str(options.duration)]
    command += ["--clients", str(CLIENTS), "--warmup", "8", *(["--mux"] if options.mux else []), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own command
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
