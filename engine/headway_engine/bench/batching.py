"""Case `batching`: what a batch costs and brings, and what the modes and profiles make of the same traffic.

Three parts, on the CPU with SmolLM2 or (`--shape`) on a GPU with random weights:

    batch N        closed loop of N clients, `max_num_seqs` N: tokens/s against latency
    mode M         open loop, Poisson arrivals at `--load` of the throughput of the largest batch, each mode with the same ones
    profile P      as many running streams as a quarter of the largest batch, and long prompts that arrive among them

Percentiles over requests (TTFT) and over gaps (ITL). The worst gap is the longest of each stream.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from headway_engine.bench.recorded import Latencies, RecordedEngine
from headway_engine.bench.report import Figure, Report
from headway_engine.bench.shapes import MAX_MODEL_LEN, SHAPES, Work, shape_executor
from headway_engine.core.limits import BatchingMode, LimitsPatch, Profile
from headway_engine.runtime.config import EngineConfig, ModelLoadError

DESCRIPTION = "TTFT, ITL and tokens/s by batch size, batching mode and profile"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
LARGEST = BATCHES[-1]
ROUNDS = 3  # requests per client of a closed loop
STATIC_GROUP = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of this case."""
    parser.add_argument("--shape", choices=list(SHAPES), help="a GPU with random weights (default: SmolLM2 on the CPU)")
    parser.add_argument("--model", type=Path, metavar="PATH", help="another model for the CPU (default: SmolLM2)")
    parser.add_argument("--input", type=int, default=64, metavar="N", help="prompt tokens (64)")
    parser.add_argument("--output", type=int, default=32, metavar="N", help="answer tokens (32)")
    parser.add_argument("--requests", type=int, default=120, metavar="N", help="requests of each mode (120)")
    parser.add_argument("--load", type=float, default=0.7, metavar="X", help="share of the largest throughput (0.7)")
    parser.add_argument(
        "--wait", type=int, default=200, metavar="MS", help="batch wait of the modes that have one (200)"
    )
    parser.add_argument("--long", type=int, default=1500, metavar="N", help="tokens of a long prompt (1500)")
    parser.add_argument("--itl", type=int, default=400, metavar="MS", help="ITL target of the profile low-tail (400)")


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    engine = _engine(options)
    try:
        engine.closed(4, [engine.work(options.input, 8) for _ in range(8)])  # warm up
        figures = [*_batches(engine, options)]
        peak = next(figure.value for figure in figures if figure.name == f"batch {LARGEST}: throughput")
        figures += _modes(engine, options, options.load * peak / options.output)
        figures += _profiles(engine, options)
    finally:
        engine.close()
    return Report(
        "batching", {key: str(value) for key, value in vars(options).items() if key != "save"}, tuple(figures)
    )


def _engine(options: argparse.Namespace) -> RecordedEngine:
    if options.shape is not None:
        _check_lengths(options, MAX_MODEL_LEN)
        setup = EngineConfig(Path(options.shape), capacity_max_num_seqs=LARGEST, capacity_max_num_batched_tokens=4096)
        executor, tokens_ahead = shape_executor(options.shape, setup, kv_cache_mib=16384)
        return RecordedEngine(executor, tokens_ahead, setup, MAX_MODEL_LEN, SHAPES[options.shape].vocab_size)
    from headway_engine.bench.beside_transformers import default_model  # noqa: PLC0415 - it brings the CPU case along
    from headway_engine.runtime.loading import load  # noqa: PLC0415 - as above

    model = options.model or default_model()
    setup = EngineConfig(
        model,
        device="cpu",
        capacity_max_num_seqs=LARGEST,
        capacity_max_num_batched_tokens=2048,
        kv_cache_memory_mib=2048,
    )
    loaded = load(setup)
    facts = loaded.model_info
    _check_lengths(options, facts.max_model_len)
    return RecordedEngine(loaded.executor, loaded.tokens_ahead, setup, facts.max_model_len, facts.vocab_size)


def _check_lengths(options: argparse.Namespace, longest: int) -> None:
    for name in ("input", "long"):
        asked = getattr(options, name)
        if asked + options.output > longest:
            told = f"--{name} {asked} and --output {options.output} are more than the model's {longest} tokens"
            raise ModelLoadError(told)


def _batches(engine: RecordedEngine, options: argparse.Namespace) -> Iterator[Figure]:
    for batch in BATCHES:
        engine.set_limits(LimitsPatch(max_num_seqs=batch))
        work = [engine.work(options.input, options.output) for _ in range(max(4, ROUNDS * batch))]
        yield from _figures(f"batch {batch}", engine.closed(batch, work))


def _modes(engine: RecordedEngine, options: argparse.Namespace, rate: float) -> Iterator[Figure]:
    work = [engine.work(options.input, options.output) for _ in range(options.requests)]
    arrivals = _poisson(rate, work)
    for mode in BatchingMode:
        group = STATIC_GROUP if mode is BatchingMode.STATIC else LARGEST
        wait_ms = 0 if mode is BatchingMode.CONTINUOUS else options.wait
        engine.set_limits(LimitsPatch(max_num_seqs=group, batch_wait_ms=wait_ms, batching_mode=mode))
        yield from _figures(f"mode {mode}", engine.open(arrivals))
    engine.set_limits(LimitsPatch(max_num_seqs=LARGEST, batch_wait_ms=0, batching_mode=BatchingMode.CONTINUOUS))


def _profiles(engine: RecordedEngine, options: argparse.Namespace) -> Iterator[Figure]:
    """A quarter of the slots stream; every eighth prompt is long."""
    clients = LARGEST // 4
    work = [engine.work(options.long if n % 8 == 7 else options.input, options.output) for n in range(4 * clients)]
    for profile in Profile:
        engine.set_limits(LimitsPatch(profile=profile, itl_target_ms=options.itl))
        yield from _figures(f"profile {profile}", engine.closed(clients, work))


def _poisson(rate: float, work: Sequence[Work]) -> list[tuple[float, Work]]:
    generator = random.Random(7)  # noqa: S311 - arrival times, not secrets
    at_s, arrivals = 0.0, []
    for item in work:
        at_s += generator.expovariate(rate)
        arrivals.append((at_s, item))
    return arrivals


def _figures(name: str, found: Latencies) -> Iterator[Figure]:
    yield Figure(f"{name}: throughput", "tok/s", found.tokens_per_s, (found.tokens_per_s,))
    for label, values in (("TTFT", found.ttft_ms), ("ITL", found.itl_ms), ("worst gap", found.worst_gaps_ms)):
        for percent in (50, 95):
            value = percentile(values, percent)
            yield Figure(f"{name}: {label} p{percent}", "ms", value, (value,))


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
