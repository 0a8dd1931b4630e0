"""What a standing reserve costs a realtime class, and what it buys: `python benchmarks/reserve_case.py RESULT.jsonl [SEEDS]`.

The first 1,800 s of azure2023_code as class realtime, which `make bench-control` runs too. Here the user declares minReplicas, and
the fleet begins with as many. Our loop above that, and as many replicas fixed, at four start delays. Writes a JSON line a run, and
prints a Markdown table of means: percent of the requests inside 400 ms / GPU-hours / reversals per hour.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from control_report import Figures

from headway_cli.simulate import arguments, runs
from headway_cli.simulate.runs import Case, Row

_TRACE = Path(__file__).parent / "traces" / "azure2023_code.csv.gz"
_FLAGS = (str(_TRACE), "--class", "realtime", "--duration", "1800")
DELAYS_S = (5.0, 30.0, 100.0, 240.0)
RESERVES = (9, 12)  # replicas
Part = tuple[int, float]  # seed, start delay


def reserved(case: Case, replicas: int) -> Case:
    """The case of a fleet that never has fewer replicas."""
    setup = replace(case.context.setup, min_replicas=replicas)
    bounds = replace(case.context.bounds, min_replicas=replicas)
    return replace(case, context=replace(case.context, setup=setup, bounds=bounds))


def rows(part: Part) -> list[Row]:
    """All runs of one seed and start delay."""
    return list(_rows(*part))


def _rows(seed: int, delay_s: float) -> Iterator[Row]:
    parser = argparse.ArgumentParser()
    arguments.add(parser)
    case = runs.cases(_TRACE, arguments.parse(parser.parse_args(_FLAGS))).case(seed, delay_s)
    for count in RESERVES:
        yield runs.run(reserved(case, count), "headway", label=f"headway, minReplicas {count}")
        yield runs.run(reserved(case, count), "static", float(count), f"{count} replicas fixed")


def table(found: list[Row]) -> str:
    """Policies down, start delays across."""
    groups: dict[str, dict[object, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        groups[str(row["policy"])][row["start_delay_s"]].append(row)
    lines = ["| azure2023_code | " + " | ".join(f"{delay_s:g} s" for delay_s in DELAYS_S) + " |", "| --- " * 5 + "|"]
    for name, by in groups.items():
        lines.append(f"| {name} | " + " | ".join(Figures(by[delay_s]).cell() for delay_s in DELAYS_S) + " |")
    return "\n".join(lines)


def main(result: Path, seeds: int = 10) -> None:
    """Run all, write and print."""
    parts = [(seed, delay_s) for delay_s in DELAYS_S for seed in range(seeds)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = [row for some in pool.map(rows, parts) for row in some]
    result.write_text("".join(f"{json.dumps(row)}\n" for row in found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
