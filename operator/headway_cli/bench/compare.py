"""`headway bench compare`: our newest measured figure of each cell beside the peer's and our own goal. Reads files only.

A cell is a model shape, a benchmark case and its parameter on one kind of GPU. Results are the JSON lines that
`headway bench engine --save`, `benchmarks/gpu_cases.py` and `benchmarks/gpu_online.py` write; peers and goals are in `benchmarks/peers.json`. Cells that
nobody has measured are listed too: what is not measured is not met.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    try:
        reference = json.loads(options.peers.read_text(encoding="utf-8"))
        known = list(reference["peers"])
        goals = reference["goals"].get(options.device, {})
    except (OSError, ValueError, RecursionError) as error:
        raise CliError(f"--peers {options.peers}: {error}") from None
    except (AttributeError, KeyError, TypeError):
        raise CliError(f"--peers {options.peers}: needs objects `peers` and `goals` by kind of GPU") from None
    if options.device not in known:
        raise CliError(f"--device must be one of {', '.join(map(repr, known))}, got {options.device!r}")
    if not options.results.is_dir():
        raise CliError(f"--results: {options.results} is not a folder")
    newest = newest_figures(options.results, options.device)
    cells = list(compare(reference["peers"][options.device], goals, newest))
    print("".join(json.dumps(asdict(cell)) + "\n" for cell in cells) if options.json else table(cells), end="")
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
    peers: Mapping[str, Mapping[str, Any]],
    goals: Mapping[str, Mapping[str, Any]],
    newest: Mapping[str, tuple[float, str]],
) -> Iterator[Cell]:
    """The cells of one device, in the order of the peer's figures."""
    for shape, cases in peers.items():
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
                    ratio=_ratio(ours, peer) if more_is_better else _ratio(peer, ours),
                    goal_met=_met(ours, goal, more_is_better),
                    measured=date,
                )


def table(cells: list[Cell]) -> str:
    """The same for people."""
    lines = [f"{'cell':<24} {'ours':>12} {'peer':>12} {'goal':>12} {'ratio':>7}  goal met"]
    for cell in cells:
        ours = "not measured" if cell.ours is None else f"{cell.ours:,.2f}"
        goal = "" if cell.goal is None else f"{cell.goal:,.2f}"
        ratio = "" if cell.ratio is None else f"{cell.ratio:.2f}"
        met = {True: "yes", False: "NO", None: ""}[cell.goal_met]
        lines.append(f"{cell.cell:<24} {ours:>12} {cell.peer:>12,.2f} {goal:>12} {ratio:>7}  {met:<3} {cell.unit}")
    ahead = sum(cell.ratio is not None and cell.ratio > 1 for cell in cells)
    reached = sum(cell.goal_met is True for cell in cells)
    lines.append(f"{ahead} of {len(cells)} cells are ahead of the peer, {reached} of {len(cells)} reach the goal")
    return "\n".join(lines) + "\n"


def _ratio(better: float | None, worse: float | None) -> float | None:
    return None if better is None or not worse else better / worse


def _met(ours: float | None, goal: float | None, more_is_better: bool) -> bool | None:
    if goal is None:
        return None
    if ours is None:
        return False
    return ours >= goal if more_is_better else ours <= goal
