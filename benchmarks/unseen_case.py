"""Every policy on traces that nobody tuned to: `python benchmarks/unseen_case.py [--draws 0 1] [--forms sine flash]`.

The traces are made by `made_traces.py`; a draw that nobody has run yet has been seen by nobody. All rivals run at their defaults, and
HPA, AIBrix and Dynamo at their best targets for the very trace in hindsight too. Writes JSON lines, and prints a table a start delay
(5 and 100 s): percent of the requests inside their target / GPU-hours / reversals per hour. Other flags are those of
`headway simulate bench`. An hour of one core.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import compiled
import made_traces
from control_report import BOUND, OURS, WORK, Figures, Row, cheapest, grouped, hindsight, read

from headway_planner.rivals.catalog import CATALOG

_HERE = Path(__file__).parent
TUNED = ("hpa", "aibrix", "dynamo")
AT_DEFAULTS = tuple(name for name, entry in CATALOG.items() if entry.rival and name not in ("static", *TUNED))
_PUNCTUAL = ("cheapest at defaults as punctual", "ours over it", "cheapest in hindsight as punctual", "ours over it")
_HEADS = ("trace", OURS, *_PUNCTUAL, BOUND)


def table(rows: list[Row], delay_s: float) -> str:
    """A Markdown table of one start delay, a line a trace, in the order of the forms."""
    lines = ["| " + " | ".join(_HEADS) + " |", "| --- " * len(_HEADS) + "|"]
    groups = {trace: by for (trace, at_s), by in grouped(rows).items() if at_s == delay_s}
    for trace in sorted(groups, key=_order):
        by = groups[trace]
        rivals = [name for name in by if name not in (OURS, BOUND, WORK)]
        defaults = [name for name in rivals if not hindsight(name)]
        tuned = [name for name in rivals if hindsight(name)]
        cells = (trace, by[OURS].cell(), *_cheapest(by, defaults), *_cheapest(by, tuned), by[BOUND].cell())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _order(trace: str) -> tuple[int, int]:
    form, _, draw = trace.rpartition("-")
    return list(made_traces.FORMS).index(form), int(draw)


def _cheapest(by: dict[str, Figures], names: list[str]) -> tuple[str, str]:
    """The cheapest that is as punctual as ours, and our hours over its; else the most punctual, in brackets."""
    found = cheapest(by, names)
    if found is not None:
        name, (ours, rival) = found
        return f"{name} {rival.cell()}", f"{ours.hours / rival.hours:.2f}"
    best = max(names, key=lambda name: by[name].attainment)
    return f"none ({best} {by[best].cell()})", "-"


def main() -> int:
    """Make the traces, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--forms", nargs="+", choices=made_traces.FORMS, default=list(made_traces.FORMS))
    parser.add_argument("--start-delay", default="5,100")
    parser.add_argument("--jobs", default=str(os.cpu_count() or 1))
    given, more = parser.parse_known_args()
    result = _HERE / "results" / time.strftime("control-unseen-%Y%m%dT%H%M%SZ.jsonl", time.gmtime())
    with tempfile.TemporaryDirectory() as folder, result.open("w", encoding="utf-8") as lines:
        traces = [str(made_traces.write(Path(folder), name, draw)) for name in given.forms for draw in given.draws]
        flags = ["--scale", "1", "--start-delay", given.start_delay, "--jobs", given.jobs, *more]
        for names, also in (((OURS, *TUNED, BOUND), ["--tuned"]), (AT_DEFAULTS, [])):
            compiled.bench(["--trace", *traces, "--policies", ",".join(names), *flags, *also], lines)
    rows = read([result])
    for delay_s in map(float, given.start_delay.split(",")):
        print(f"starts of {delay_s:g} s\n\n{table(rows, delay_s)}\n")
    print(f"{result.relative_to(_HERE.parent)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
