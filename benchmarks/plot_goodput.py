"""Draws what `goodput.py` saved: `python benchmarks/plot_goodput.py IMAGE.png RESULT.jsonl [RESULT.jsonl ...]`.

Above: requests/s that kept both targets, of each contestant, and what arrived. Beneath: the limits in force and the sequences
that ran, of the contestants whose limits moved. Curves are means over the repetitions; limits are those of the first one.
Several files, of one schedule, are taken together.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

Line = Mapping[str, Any]
COLOURS = {"headway": "C0", "defaults": "C3", "class": "C2", "class-headway": "C4", "vllm-like": "C1"}


def read(paths: Sequence[Path]) -> list[Line]:
    """All lines; repetitions of later files are others than those of earlier ones."""
    found: list[Line] = []
    for number, path in enumerate(paths):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            found.append(line | {"repetition": (number, line["repetition"])} if "repetition" in line else line)
    return found


def means(lines: Sequence[Line], contestant: str | None, field: str) -> tuple[list[float], list[float]]:
    """Middles of the windows, and the mean of a field in each over the repetitions; contestant None: over all of them."""
    by: dict[tuple[float, float], list[float]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "window" and contestant in (None, line["contestant"]):
            by[line["begin_s"], line["end_s"]].append(line[field])
    return [mean(window) for window in sorted(by)], [mean(by[window]) for window in sorted(by)]


def looks(lines: Sequence[Line], contestant: str) -> list[Line]:
    """The passes of the first repetition, from the first arrival on."""
    mine = [line for line in lines if line["kind"] == "look" and line["contestant"] == contestant]
    return [line for line in mine if line["repetition"] == mine[0]["repetition"] and line["at_s"] >= 0]


def draw(lines: Sequence[Line], title: str) -> None:
    """The figure."""
    contestants = list(dict.fromkeys(line["contestant"] for line in lines if line["kind"] == "window"))
    _, (above, seqs, tokens) = plt.subplots(3, 1, figsize=(10, 8.5), sharex=True, height_ratios=(2, 1.2, 1))
    times, offered = means(lines, None, "offered")
    above.fill_between(times, offered, color="0.9", label="arrived")
    for name in contestants:
        above.plot(*means(lines, name, "goodput"), label=name, color=COLOURS.get(name))
        _limits(seqs, tokens, looks(lines, name), name)
    above.set_title(title, pad=30)
    above.set(ylabel="good requests/s", ylim=(0, 1.25 * max(offered)))
    seqs.set(ylabel="sequences", ylim=(0, 1.3 * seqs.dataLim.y1))
    tokens.set(ylabel="tokens a step", xlabel="seconds")
    tokens.set_yscale("log", base=2)
    tokens.yaxis.set_major_formatter(ScalarFormatter())
    phases = list({line["name"]: line for line in lines if line["kind"] == "phase"}.values())
    for phase in phases:
        for axes in (above, seqs, tokens):
            axes.axvline(phase["begin_s"], color="0.6", linewidth=0.7)
        name = f"{phase['name']}\n{phase['inputs']}/{phase['outputs']}"
        above.annotate(name, (phase["begin_s"], 1.02), xycoords=("data", "axes fraction"), fontsize=8)
    above.set_xlim(0, max(phase["end_s"] for phase in phases))
    above.legend(loc="upper left", fontsize=9, ncols=len(contestants) + 1)
    seqs.legend(loc="upper left", fontsize=8, ncols=4)


def _limits(seqs: Axes, tokens: Axes, found: Sequence[Line], name: str) -> None:
    times = [look["at_s"] for look in found]
    colour = COLOURS.get(name)
    seqs.step(times, [look["seqs"] for look in found], where="post", color=colour, label=f"{name}: limit")
    seqs.plot(
        times, [look["running"] for look in found], color=colour, alpha=0.45, linewidth=0.9, label=f"{name}: running"
    )
    tokens.step(times, [look["tokens"] for look in found], where="post", color=colour)


def main(image: Path, paths: Sequence[Path]) -> None:
    """Read, draw, save."""
    lines = read(paths)
    run = next(line for line in lines if line["kind"] == "run")
    settings, where = run["settings"], (run["gpus"] or [run["cpu"]])[0]
    draw(
        lines,
        f"{settings['model']} on {where}\ngood: TTFT <= {settings['ttft']} ms and mean time between tokens <= {settings['itl']} ms",
    )
    plt.tight_layout()
    plt.savefig(image, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
