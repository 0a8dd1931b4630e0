"""`headway simulate`: one run, or a benchmark of policies over traces and seeds."""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from headway_cli.simulate import arguments, bench
from headway_cli.simulate.bench import Place
from headway_cli.simulate.runs import Row
from headway_planner.rivals.catalog import OURS

# What is printed for people: field, heading, width; with the policy's name 80 columns.
_COLUMNS = (
    ("seed", "seed", 5),
    ("attainment", "attainment", 11),
    ("gpu_hours", "GPU-hours", 11),
    ("replicas_mean", "replicas", 9),
    ("reversals_per_hour", "rev/h", 7),
    ("ttft_p95_ms", "TTFT p95 ms", 12),
)
_WIDE = 25  # of a policy's name


def command(given: argparse.Namespace) -> int:
    """Run; prints one line as soon as each run ends."""
    options = arguments.parse(given)
    shown: tuple[object, object] | None = None
    for row in _rows(options):
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        part = row["trace"], row["start_delay_s"]
        if part != shown:
            print(f"{part[0]}, replicas start in {part[1]:g} s")
            print(f"{'policy':{_WIDE}}" + "".join(f"{heading:>{width}}" for _, heading, width in _COLUMNS))
            shown = part
        print(
            f"{row['policy']!s:{_WIDE}}" + "".join(f"{row.get(name, '-')!s:>{width}}" for name, _, width in _COLUMNS),
            flush=True,
        )
    return 0


def _rows(options: arguments.Options) -> Iterator[Row]:
    """Each policy at each trace and start delay is a task; with several processes tasks run beside each other."""
    places = [Place(path, delay_s, options) for path in options.traces for delay_s in options.start_delays_s]
    others = [policy for policy in options.policies if policy != OURS]
    if options.jobs == 1:
        for place in places:
            ours: list[Row] = []
            for row in bench.ours(place):
                ours.append(row)
                yield row
            for policy in others:
                yield from bench.rows(place, policy, ours)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        first = [pool.submit(_all_ours, place) for place in places]
        later = [
            [pool.submit(_all, place, policy, mine.result()) for policy in others]
            for place, mine in zip(places, first, strict=True)
        ]
        for mine, rest in zip(first, later, strict=True):
            for task in (mine, *rest):
                yield from task.result()


def _all_ours(place: Place) -> list[Row]:
    return list(bench.ours(place))


def _all(place: Place, policy: str, ours: list[Row]) -> list[Row]:
    return list(bench.rows(place, policy, ours))
