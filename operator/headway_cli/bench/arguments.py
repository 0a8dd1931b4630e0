"""The command line of `headway bench online`."""

import argparse
from pathlib import Path

from headway_cli.bench import peers
from headway_cli.bench.workload import Workload
from headway_cli.errors import CliError
from headway_cli.limits import ABOVE_0, check

MOST_REQUESTS = 10_000_000
_BOUNDS = {
    # flag -> the least and the most
    "rate": (ABOVE_0, 1_000_000),
    "duration": (ABOVE_0, 604_800),
    "timeout": (ABOVE_0, 604_800),
    "slo_ttft_ms": (ABOVE_0, 1_000_000_000),
    "slo_tpot_ms": (ABOVE_0, 1_000_000_000),
    "temperature": (0, 100),
    # e^20 tokens are more than any context.
    "input_mu": (-20, 20),
    "output_mu": (-20, 20),
    "input_sigma": (0, 20),
    "output_sigma": (0, 20),
    "min_input": (1, 10_485_760),
    "min_output": (1, 10_485_760),
    "clients": (1, 1024),
    "warmup": (0, 1000),
    "against_tokens": (1, 262_144),
}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--rate", type=float, required=True, metavar="R", help="mean arrivals per second")
    parser.add_argument(
        "--duration", type=float, default=25.0, metavar="S", help="arrivals last this long (default: 25)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals and lengths (default: 0)")
    for name, default in (("input-mu", 6.0), ("input-sigma", 0.8), ("output-mu", 5.0), ("output-sigma", 0.7)):
        text = f"log-normal {name.replace('-', ' ')} (default: {default})"
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=text)
    for name, count in (("min-input", 16), ("max-input", 2048), ("min-output", 8), ("max-output", 1024)):
        text = f"{name.replace('-', ' ')} tokens (default: {count})"
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help=text)
    parser.add_argument("--temperature", type=float, default=0.6, metavar="T", help="of every request (default: 0.6)")
    parser.add_argument("--slo-ttft-ms", type=float, default=500.0, metavar="MS", help="a good TTFT (default: 500)")
    parser.add_argument("--slo-tpot-ms", type=float, default=50.0, metavar="MS", help="a good TPOT (default: 50)")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="deadline of a request (default: 300)"
    )
    parser.add_argument("--clients", type=int, default=1, metavar="N", help="client processes (default: 1)")
    parser.add_argument("--mux", action="store_true", help="one GenerateMux stream per client and engine")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="uncounted requests per engine (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--records", type=Path, metavar="FILE", help="also write the fate of each request, JSON lines")
    beside = parser.add_argument_group("beside the simulator (one engine)")
    beside.add_argument("--against", type=Path, metavar="FILE", help="step models: also simulate the same requests")
    beside.add_argument("--against-engine", metavar="NAME", help="of that file (default: its first)")
    beside.add_argument(
        "--against-tokens", type=int, default=2048, metavar="N", help="the engine's tokens per step (default: 2048)"
    )
    peer = parser.add_argument_group("beside the comparison engine")
    peer.add_argument(
        "--peer", metavar="GPU/SHAPE", help="also print our figures over its own, as 'NVIDIA H200/llama8b'"
    )
    peer.add_argument("--peers", type=Path, default=peers.FILE, metavar="FILE", help="(default: %(default)s)")


def workload(options: argparse.Namespace) -> Workload:
    """The flags as a workload.

    Raises:
        CliError: a number makes no sense; the message names the flag.
    """
    check(options, _BOUNDS)
    if options.rate * options.duration > MOST_REQUESTS:
        raise CliError(
            f"--rate times --duration must be at most {MOST_REQUESTS} requests, got {options.rate * options.duration:.0f}"
        )
    for side in ("input", "output"):
        low, high = getattr(options, f"min_{side}"), getattr(options, f"max_{side}")
        if high < low:
            raise CliError(f"--max-{side} must be at least --min-{side} ({low}), got {high}")
    return Workload(
        rate_per_s=options.rate,
        duration_s=options.duration,
        seed=options.seed,
        input_mu=options.input_mu,
        input_sigma=options.input_sigma,
        output_mu=options.output_mu,
        output_sigma=options.output_sigma,
        min_input=options.min_input,
        max_input=options.max_input,
        min_output=options.min_output,
        max_output=options.max_output,
    )
