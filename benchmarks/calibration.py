"""A step model, and its error under load: `python benchmarks/calibration.py FOLDER [--shape NAME | --model FILE] ...`.

    1  `headway bench calibrate` measures single steps of the engine in-process and fits the step model
    2  the engine is served over gRPC, in a process of its own
    3  at some shares of the capacity that the simulator gives it: `headway bench online --against`, the same open-loop
       requests on the real engine and on the simulated one

Goals: mean TPOT within 5 %, p95 TTFT within 15 %. FOLDER gets the step model (CSV, with the front's share of a first token),
the measured steps, the fate of every request, and the errors as JSON lines. A shape has random weights.

Needs what `benchmarks/gpu_online.py` needs; `engine` and `operator` on PYTHONPATH.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import served

from headway_cli.bench import predicted
from headway_cli.bench.calibrate import FRONT
from headway_cli.bench.front import Front
from headway_cli.bench.workload import Workload, arrivals
from headway_cli.simulate import engines
from headway_engine.bench import report
from headway_engine.bench.report import Figure, Report
from headway_planner.model import BatchLimits
from headway_planner.steps import StepModel

HEADWAY = [sys.executable, "-c", "from headway_cli.main import main; main()"]
QUEUE = 8192  # requests: an open loop refuses nobody
CROWD = 2000  # requests at once that tell the capacity: so many that begin and end do not count
LENGTHS = ("input-mu", "input-sigma", "output-mu", "output-sigma", "max-input", "max-output")


def main(options: argparse.Namespace) -> None:
    """Calibrate, serve, compare, save."""
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.step_model or calibrated(options)
    model = engines.load(file)
    limits = BatchLimits(options.max_seqs, options.max_tokens)
    lengths = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in LENGTHS}
    crowd = arrivals(Workload(rate_per_s=CROWD, duration_s=1.0, **lengths))
    rate = predicted.capacity(model, limits, crowd)
    print(f"{model.name}: {rate:.2f} requests/s when full", flush=True)
    engine = served.started(options.shape or str(options.model), options.device, flags(options))
    figures = [Figure("capacity", "req/s", rate, (rate,))]
    fronts, eaches = [], []
    try:
        asyncio.run(served.ready(f"127.0.0.1:{options.port}", engine))
        for load in options.loads:
            found = online(file, round(load * rate, 3), f"{load:g}", options)
            fronts.append(found["against"]["front_ms"])
            eaches.append(found["against"]["front_each_ms"])
            figures += errors(f"load {load:.0%}", found)
    finally:
        served.stop(engine)
    remarks = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
    final = Front(statistics.median(fronts), statistics.median(eaches)).on(model)
    engines.save(options.folder / f"{model.name}.csv", final, [*remarks[:-1], FRONT])
    save(final, figures, options)


def calibrated(options: argparse.Namespace) -> Path:
    """Measure steps and fit; returns the step model's file."""
    file: Path = options.folder / "steps.csv"
    command = [*HEADWAY, "bench", "calibrate", "--output", str(file), "--samples", str(options.folder / "steps.jsonl")]
    for name in (
        "shape",
        "model",
        "device",
        "dtype",
        "threads",
        "max_seqs",
        "max_tokens",
        "cell_tokens",
        "steps",
        "repeats",
    ):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    subprocess.run(command, check=True)  # noqa: S603 - our own command
    return file


def flags(options: argparse.Namespace) -> list[str]:
    """The engine's own."""
    found = ["--port", str(options.port), "--host", "127.0.0.1", "--control-port", "0", "--http-port", "0"]
    found += ["--prefix-cache", "off", "--capacity-max-num-seqs", str(options.max_seqs)]
    found += ["--capacity-max-num-batched-tokens", str(options.max_tokens)]
    found += ["--capacity-max-queued-requests", str(QUEUE), "--max-queued-requests", str(QUEUE)]
    found += ["--dtype", options.dtype] if options.dtype else []
    return [*found, *(["--threads", options.threads] if options.threads else [])]


def online(file: Path, rate: float, label: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `headway bench online --json --against` prints."""
    command = [*HEADWAY, "bench", "online", "--json", "--address", f"127.0.0.1:{options.port}"]
    command += ["--rate", str(rate), "--duration", str(options.duration), "--seed", str(options.seed)]
    command += ["--clients", str(options.clients), "--warmup", "4", *(["--mux"] if options.mux else [])]
    command += ["--against", str(file), "--against-tokens", str(options.max_tokens)]
    command += ["--records", str(options.folder / f"records-{label}.jsonl")]
    for name in LENGTHS:
        command += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own command
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def errors(name: str, found: dict[str, Any]) -> list[Figure]:
    """Measured, simulated and error of each figure."""
    against = found["against"]
    print(
        f"{name}: {found['requests']} requests, {found['failed']} failed, front {against['front_ms']:.1f} + {against['front_each_ms']:.3f} ms",
        flush=True,
    )
    fronts = {"front": against["front_ms"], "front each": against["front_each_ms"]}
    figures = [Figure(f"{name} {which}", "ms", ms, (ms,)) for which, ms in fronts.items()]
    for label, row in against["figures"].items():
        unit = "tok/s" if "tok/s" in label else "ms"
        print(f"  {label:<14}{row['measured']:>10.1f}{row['simulated']:>10.1f}{row['error']:>8.1%}", flush=True)
        figures += [
            Figure(f"{name} {label} {kind}", unit, row[kind], (row[kind],)) for kind in ("measured", "simulated")
        ]
        figures.append(Figure(f"{name} {label} error", "%", 100 * row["error"], (100 * row["error"],)))
    return figures


def save(model: StepModel, figures: list[Figure], options: argparse.Namespace) -> None:
    """The JSON lines."""
    settings = {
        key: value.name if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if value is not None and key != "folder"
    }
    result = Report(f"calibration-{model.name}", settings, tuple(figures))
    now = datetime.now(UTC)
    report.save(report.as_lines(result, report.environment(), now), result, now, options.folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description="Fit a step model to the engine and judge it under load.")
    found.add_argument("folder", type=Path)
    which = found.add_mutually_exclusive_group(required=True)
    which.add_argument("--shape")
    which.add_argument("--model", type=Path)
    found.add_argument("--step-model", type=Path, help="an earlier fit instead of a new one")
    found.add_argument("--device", default="cuda")
    for name in ("dtype", "threads", "cell-tokens", "steps", "repeats"):
        found.add_argument(f"--{name}")
    found.add_argument("--max-seqs", type=int, default=256)
    found.add_argument("--max-tokens", type=int, default=2048)
    found.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.8], help="shares of the capacity")
    found.add_argument("--duration", type=float, default=25.0)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--clients", type=int, default=1)
    found.add_argument("--mux", action="store_true")
    found.add_argument("--port", type=int, default=50061)
    for name, default in zip(LENGTHS, (6.0, 0.8, 5.0, 0.7, 2048, 1024), strict=True):
        found.add_argument(f"--{name}", type=type(default), default=default)
    return found


if __name__ == "__main__":
    main(parser().parse_args())
