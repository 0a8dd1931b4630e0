"""`headway simulate`: one run, or a benchmark of policies over traces and seeds."""

import argparse
import json
from collections.abc import Iterator

from headway_cli.simulate import arguments, runs
from headway_cli.simulate.runs import Row
from headway_planner.rivals.catalog import CATALOG

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
    for path in options.traces:
        maker = runs.cases(path, options)
        best: dict[str, float] = {}
        for seed in options.seeds:
            case = maker.case(seed)
            for policy in options.policies:
                yield runs.run(case, policy, options.target)
            if not options.tuned:
                continue
            for policy in options.policies:
                if policy not in CATALOG or not (CATALOG[policy].rival and CATALOG[policy].sweep):
                    continue
                if policy not in best:  # found at the first seed, kept for the others
                    best[policy] = runs.best_target(case, policy)
                yield runs.run(case, policy, best[policy], f"{policy}-tuned")
