"""Table and plot of what `headway simulate bench --json` printed: `python benchmarks/control_report.py IMAGE.png RESULT.jsonl...`.

A cell is percent of the requests inside their target / GPU-hours / reversals per hour, means over the seeds; with batch work the
percent of its deadlines that were met behind them. The first table has a line a trace and start delay: ours beside the cheapest
rival tuned in hindsight (to the goals, or to match us) that keeps at least our attainment (within 0.05 points), and beside the
clairvoyant bound, each over the seeds that it shares with ours. The second one has all policies.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

Row = dict[str, object]
Key = tuple[str, float]  # trace, start delay
OURS, BOUND, WORK = "headway", "clairvoyant", "work-bound"
_COLOURS = (
    "tab:blue",
    "tab:orange",
    "tab:green",
    "tab:purple",
    "tab:brown",
    "tab:olive",
    "tab:cyan",
    "tab:pink",
    "0.4",
    "teal",
)
_STYLES = tuple(zip(_COLOURS, "os^vPXhp<>", strict=True))
_SAME = 0.0005  # attainment that counts as equal


class Figures:
    """Means of one policy on one trace and start delay."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.attainment = mean(_number(row, "attainment") for row in rows)
        self.hours = mean(_number(row, "gpu_hours") for row in rows)
        self.reversals = mean(_number(row, "reversals_per_hour") for row in rows)
        kept = [_number(row, "deadlines_met") for row in rows if "deadlines_met" in row]
        self.deadlines = mean(kept) if kept else None
        self.seeds = {_number(row, "seed") for row in rows}

    def over(self, seeds: set[float]) -> "Figures":
        """The means over some of the seeds."""
        return Figures([row for row in self._rows if row["seed"] in seeds])

    def cell(self) -> str:
        """For the table."""
        cell = f"{100 * self.attainment:.2f} / {self.hours:.2f} / {self.reversals:.1f}"
        return cell if self.deadlines is None else f"{cell} / {100 * self.deadlines:.2f}"


Groups = dict[Key, dict[str, Figures]]


def read(paths: Iterable[Path]) -> list[Row]:
    """All lines of all files."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def grouped(rows: Sequence[Row]) -> Groups:
    """Figures by trace, start delay and policy."""
    found: dict[Key, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[str(row["trace"]), _number(row, "start_delay_s")][str(row["policy"])].append(row)
    return {key: {name: Figures(mine) for name, mine in by.items()} for key, by in sorted(found.items())}


Pair = tuple[Figures, Figures]  # ours and another policy, over the seeds that both have


def paired(by: dict[str, Figures], name: str) -> Pair | None:
    """Ours and the other policy; None: one of them did not run, or they share no seed."""
    if OURS not in by or name not in by:
        return None
    seeds = by[OURS].seeds & by[name].seeds
    return (by[OURS].over(seeds), by[name].over(seeds)) if seeds else None


def best_rival(by: dict[str, Figures]) -> tuple[str, Pair] | None:
    """The cheapest rival set in hindsight beside ours, of those that are as punctual; None: there is none."""
    return cheapest(by, filter(hindsight, by))


def cheapest(by: dict[str, Figures], names: Iterable[str]) -> tuple[str, Pair] | None:
    """The cheapest policy beside ours of those that keep at least our attainment and deadlines; None: there is none."""
    pairs = [(name, pair) for name in names if (pair := paired(by, name))]
    able = [(name, pair) for name, pair in pairs if _as_punctual(pair)]
    return max(able, key=lambda found: _ratio(found[1]), default=None)


def _as_punctual(pair: Pair) -> bool:
    ours, one = pair
    met, ours_met = ((1 if each.deadlines is None else each.deadlines) for each in (one, ours))
    return one.attainment >= ours.attainment - _SAME and met >= ours_met - _SAME


def _ratio(pair: Pair) -> float:
    return pair[0].hours / pair[1].hours


def cells(rows: Sequence[Row]) -> str:
    """A Markdown table of ours beside the best rival and the bound, a line a trace and start delay."""
    beside_rival = ("cheapest rival as punctual", "its seeds", "ours over it")
    heads = ("trace, start delay", "seeds", "headway", *beside_rival, "clairvoyant", "ours over it")
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " --- |" * (len(heads) - 1)]
    for (trace, delay), by in grouped(rows).items():
        if OURS in by:
            parts = (f"{trace}, {delay:g} s", str(len(by[OURS].seeds)), by[OURS].cell(), *_rival(by), *_bound(by))
            lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _rival(by: dict[str, Figures]) -> tuple[str, str, str]:
    found = best_rival(by)
    if found is None:
        return "none", "-", "-"
    name, pair = found
    return f"{name} {pair[1].cell()}", str(len(pair[1].seeds)), f"{_ratio(pair):.2f}"


def _bound(by: dict[str, Figures]) -> tuple[str, str]:
    pair = paired(by, BOUND)
    return ("-", "-") if pair is None else (pair[1].cell(), f"{_ratio(pair):.2f}")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: policies down, traces and start delays across."""
    groups = grouped(rows)
    names = list(dict.fromkeys(name for by in groups.values() for name in by))
    heads = [f"{trace}, {delay:g} s" for trace, delay in groups]
    lines = ["| policy | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name in names:
        cells = [by[name].cell() if name in by else "-" for by in groups.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], image: Path) -> None:
    """One panel a trace and start delay: hours over attainment. To the left and up is better.

    A policy has its colour and marker in all panels, named once below them; full is tuned, hollow at its defaults.
    """
    groups = grouped(rows)
    families = list(dict.fromkeys(_family(name) for by in groups.values() for name in by if name != WORK))
    others = [one for one in families if one not in (OURS, BOUND)]
    styles = dict(zip(others, cycle(_STYLES), strict=False)) | {OURS: ("tab:red", "*"), BOUND: ("black", "D")}
    down = -(-len(groups) // 4)
    across = -(-len(groups) // down)
    figure, panels = plt.subplots(down, across, figsize=(4.6 * across, 3.9 * down), layout="constrained", squeeze=False)
    for panel in panels.flat:
        panel.set_visible(False)
    for panel, ((trace, delay), by) in zip(panels.flat, groups.items(), strict=False):
        panel.set_visible(True)
        _panel(panel, by, styles)
        panel.set_title(f"{trace}, start {delay:g} s", fontsize=10)
    names = [Line2D([], [], color=styles[one][0], marker=styles[one][1], linestyle="", label=one) for one in families]
    figure.legend(handles=names, loc="outside lower center", ncols=7, fontsize=9)
    figure.suptitle(
        "left and up is better; full: tuned in hindsight, hollow: at its defaults; dotted: the work", fontsize=10
    )
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=100)
    plt.close(figure)


def _panel(axes: Axes, by: dict[str, Figures], styles: Mapping[str, tuple[str, str]]) -> None:
    for name, one in by.items():
        if name == WORK:
            axes.axvline(one.hours, color="0.6", linestyle=":", linewidth=1)
            continue
        colour, marker = styles[_family(name)]
        full = name in (OURS, BOUND) or hindsight(name)
        face, size, order = (colour, 110 if name == OURS else 32, 3) if full else ("none", 20, 2)
        late = max(1e-5, 1 - one.attainment)
        axes.scatter(one.hours, late, edgecolor=colour, facecolor=face, s=size, marker=marker, zorder=order)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.axhline(1e-3, color="0.8", linewidth=1)
    axes.set_xlabel("GPU-hours")
    axes.set_ylabel("share of requests that are late")
    axes.grid(alpha=0.25)


def _family(name: str) -> str:
    """The policy without how it was set."""
    return name.removesuffix("-tuned").removesuffix("-matched")


def hindsight(name: str) -> bool:
    """Whether it is a rival with a target that was found in hindsight."""
    return name.endswith(("-tuned", "-matched"))


def _number(row: Row, name: str) -> float:
    value = row[name]
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}")
    return float(value)


if __name__ == "__main__":
    found = read(Path(one) for one in sys.argv[2:])
    print(cells(found), table(found), sep="\n\n")
    draw(found, Path(sys.argv[1]))
