"""`headway bench compare`: our newest measured figure of each cell beside the peer's and our own goal. Reads files only.

A cell is a model shape, a benchmark case and its parameter on one kind of GPU. Results are the JSON lines that
`headway bench engine --save`, `benchmarks/gpu_cases.py` and `benchmarks/gpu_online.py` write; peers and goals are in `benchmarks/peers.json`. Cells that
nobody has measured are listed too: what is not measured is not met.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway_cli.bench import peers
from headway_cli.errors import CliError

# How a figure of each case is named in the results; {} is the parameter.
NAMES = {
    "offline256": "{shape} offline256",
    "decode": "{shape} decode b={parameter}",
    "prefill": "{shape} prefill {parameter}",
    "start": "{shape} build to first token",
    "online": "{shape} online capacity",
    "online gap": "{shape} online r={parameter} gap p99",
}
UNITS = {"offline256": "tok/s", "decode": "ms", "prefill": "ms", "start": "s", "online": "req/s", "online gap": "ms"}
MORE_IS_BETTER = frozenset({"tok/s", "req/s"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison.

    Attributes:
        cell: shape, case and parameter.
        unit: of the three figures.
        ours: our newest figure; None when there is none.
        peer: the comparison engine's.
        goal: what we want to reach; None where there is no goal.
        ratio: how many times better than the peer; above 1 is better.
        goal_met: whether `ours` reaches `goal`; None where there is no goal.
        measured: when `ours` was measured.
    """

    cell: str
    unit: str
    ours: float | None
    peer: float
    goal: float | None
    ratio: float | None
    goal_met: bool | None
    measured: str


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    reference = peers.read(options.peers)
    known, goals = reference["peers"], reference["goals"].get(options.device, {})
    if options.device not in known:
        raise CliError(f"--device must be one of {', '.join(map(repr, known))}, got {options.device!r}")
    if not options.results.is_dir():
        raise CliError(f"--results: {options.results} is not a folder")
    newest = newest_figures(options.results, options.device)
    cells = list(compare(known[options.device], goals, newest))
    print("".join(json.dumps(as_json(cell)) + "\n" for cell in cells) if options.json else table(cells), end="")
    return 0


def newest_figures(folder: Path, device: str) -> dict[str, tuple[float, str]]:
    """Value and date of the newest figure of each name that was measured on `device`.

    Raises:
        CliError: a file cannot be read, or a line is no result; the message names it.
    """
    found: dict[str, tuple[float, str]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        date = ""
        for number, line in enumerate(_text(file).splitlines(), start=1):
            try:
                record = json.loads(line)
                if record.get("kind") == "run":
                    date = str(record["date"]) if device in record.get("gpus", []) else ""
                elif record.get("kind") == "figure" and date > found.get(record["name"], (0.0, ""))[1]:
                    found[record["name"]] = _value(record["value"]), date
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                raise CliError(f"--results: {file}, line {number} is no result: {error!r}") from None
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--results: cannot read {file}: {error}") from None


def _value(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"value must be a finite number, got {value!r}")
    return value


def compare(
    measured: Mapping[str, Mapping[str, Any]],
    goals: Mapping[str, Mapping[str, Any]],
    newest: Mapping[str, tuple[float, str]],
) -> Iterator[Cell]:
    """The cells of one device, in the order of the peer's figures."""
    for shape, cases in measured.items():
        for case, figures in cases.items():
            wanted = goals.get(shape, {}).get(case)
            for parameter, peer in figures.items() if isinstance(figures, dict) else [("", figures)]:
                goal = wanted.get(parameter) if isinstance(wanted, dict) else wanted
                name = NAMES[case].format(shape=shape, parameter=parameter)
                ours, date = newest.get(name, (None, ""))
                more_is_better = UNITS[case] in MORE_IS_BETTER
                yield Cell(
                    cell=" ".join(part for part in (shape, case, parameter) if part),
                    unit=UNITS[case],
                    ours=ours,
                    peer=peer,
                    goal=goal,
                    ratio=peers.ratio(ours, peer, more_is_better),
                    goal_met=_met(ours, goal, more_is_better),
                    measured=date,
                )


def as_json(cell: Cell) -> dict[str, object]:
    """Plain data, for `--json`: the keys that scripts are promised, and no others."""
    return {name: getattr(cell, name) for name in ("cell", "ours", "peer", "goal", "ratio", "goal_met")}


def table(cells: list[Cell]) -> str:
    """The same for people, with units and dates."""
    lines = [f"{'cell':<21} {'ours':>9} {'peer':>9} {'goal':>9} {'ratio':>6} {'met':>4} {'unit':<5} measured"]
    for cell in cells:
        figures = " ".join(f"{_figure(value):>9}" for value in (cell.ours, cell.peer, cell.goal))
        ratio = "" if cell.ratio is None else f"{cell.ratio:.2f}"
        met = {True: "yes", False: "NO", None: ""}[cell.goal_met]
        line = f"{cell.cell:<21} {figures} {ratio:>6} {met:>4} {cell.unit:<5} {cell.measured[:10] or 'never'}"
        lines.append(line)
    ahead = sum(cell.ratio is not None and cell.ratio > 1 for cell in cells)
    reached, goals = (sum(cell.goal_met in kinds for cell in cells) for kinds in ((True,), (True, False)))
    lines.append(f"{ahead} of {len(cells)} cells are ahead of the peer, {reached} of {goals} goals are reached")
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _met(ours: float | None, goal: float | None, more_is_better: bool) -> bool | None:
    if goal is None:
        return None
    if ours is None:
        return False
    return ours >= goal if more_is_better else ours <= goal
