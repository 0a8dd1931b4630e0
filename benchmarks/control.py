"""`make bench-control`: every policy on the traces of this folder, as a table, JSON lines and plots.

The short form: the first 15 minutes, two seeds, a start delay of 100 s; each rival at its defaults and at its best target for
the trace in hindsight. `--seeds 0-9 --start-delay 5,30,100,240 --duration 4000` is the long form, some hours.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import compiled
import control_report

_HERE = Path(__file__).parent
TRACES = ("azure2023_conv", "azure2023_code", "mooncake_conversation", "servegen_r1_excerpt")


def main() -> int:
    """Run, report, and say where the files are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", nargs="+", default=[str(_HERE / "traces" / f"{name}.csv.gz") for name in TRACES])
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--start-delay", default="100")
    parser.add_argument("--duration", default="900")
    parser.add_argument("--policies", default="all")
    parser.add_argument("--jobs", default=str(os.cpu_count() or 1))
    given, more = parser.parse_known_args()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    result = _HERE / "results" / f"control-{stamp}.jsonl"
    names = ("trace", "seeds", "start_delay", "duration", "policies", "jobs")
    flags = [part for name in names for part in (f"--{name.replace('_', '-')}", *_values(getattr(given, name)))]
    with result.open("w", encoding="utf-8") as lines:
        compiled.bench([*flags, *more, "--tuned"], lines)
    rows = control_report.read([result])
    print(control_report.cells(rows), control_report.table(rows), sep="\n\n")
    images = _HERE / "results" / "plots"
    control_report.draw(rows, images / f"control-{stamp}.png")
    print(f"{result.relative_to(_HERE.parent)} and {images.relative_to(_HERE.parent)}/control-{stamp}.png written")
    return 0


def _values(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
