"""`headway simulate`: one run, or a benchmark of policies over traces and seeds."""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from headway_cli.simulate import arguments, bench
from headway_cli.simulate.runs import Row

_COLUMNS = ("trace", "policy", "seed", "attainment", "gpu_hours", "replicas_mean", "reversals_per_hour", "ttft_p95_ms")


def command(given: argparse.Namespace) -> int:
    """Run; prints one line as soon as each run ends."""
    options = arguments.parse(given)
    for number, row in enumerate(_rows(options)):
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        if number == 0:
            print("".join(f"{name:>20}" for name in _COLUMNS))
        print("".join(f"{row.get(name, '-')!s:>20}" for name in _COLUMNS), flush=True)
    return 0


def _rows(options: arguments.Options) -> Iterator[Row]:
    """Every trace and start delay is one part; parts run beside each other when there are several processes."""
    parts = [(path, delay_s, options) for path in options.traces for delay_s in options.start_delays_s]
    if options.jobs == 1 or len(parts) == 1:
        for part in parts:
            yield from bench.rows(part)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        for found in pool.map(bench.all_rows, parts):
            yield from found
