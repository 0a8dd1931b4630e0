"""The result of one benchmark: its figures, and on what they were measured.

A result is saved as JSON lines: the first says what ran where (`"kind": "run"`), each further one holds one figure
(`"kind": "figure"`) with the samples behind it, so that a published number can be traced to its repetitions.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

PACKAGES = ("headway", "torch", "transformers", "triton", "fa3-fwd")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        name: what was measured, with its parameters: `"batch 1, float32, engine"`.
        unit: `tok/s`, `ms`, `x` (a ratio).
        value: the number to quote.
        samples: the repetitions behind it, in order; one for a single run.
        goal: the value that a ratio or rate must reach; None where there is none.
    """

    name: str
    unit: str
    value: float
    samples: tuple[float, ...]
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return None if self.goal is None else self.value >= self.goal


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one case.

    Attributes:
        case: its name.
        settings: what was run, as plain data: model, lengths, repetitions, threads.
        figures: in the order of measuring.
    """

    case: str
    settings: Mapping[str, object]
    figures: tuple[Figure, ...]


def of_samples(name: str, unit: str, samples: Sequence[float], goal: float | None = None) -> Figure:
    """The median of some repetitions."""
    return Figure(name, unit, median(samples), tuple(samples), goal)


def environment() -> dict[str, object]:
    """The machine and the versions."""
    return {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def as_lines(report: Report, where: Mapping[str, object], at: datetime) -> str:
    """The result as JSON lines; see the module.

    Args:
        report: the figures.
        where: from `environment`.
        at: when it was measured.
    """
    run = {
        "kind": "run",
        "case": report.case,
        "date": at.isoformat(timespec="seconds"),
        **where,
        "settings": dict(report.settings),
    }
    figures = [{"kind": "figure", **asdict(figure), "met": figure.met} for figure in report.figures]
    return "".join(json.dumps(line) + "\n" for line in (run, *figures))


def as_table(report: Report) -> str:
    """The same for people: a line for each figure, or a matrix of those that are all called `row: column`."""
    title = f"{report.case}: " + ", ".join(f"{key}={value}" for key, value in report.settings.items())
    named = all(": " in figure.name and figure.goal is None for figure in report.figures)
    return "\n".join([title, *(_matrix(report.figures) if named else _list(report.figures))]) + "\n"


def _list(figures: Sequence[Figure]) -> Iterator[str]:
    width = max((len(figure.name) for figure in figures), default=0)
    for figure in figures:
        goal = "" if figure.goal is None else f"  goal {figure.goal:g} {'reached' if figure.met else 'MISSED'}"
        spread = f"[{min(figure.samples):,.2f} .. {max(figure.samples):,.2f}]"
        yield f"  {figure.name:<{width}} {figure.value:>12,.2f} {figure.unit:<6} {spread}{goal}"


def _matrix(figures: Sequence[Figure]) -> Iterator[str]:
    rows: dict[str, dict[str, str]] = {}
    units: dict[str, str] = {}
    for figure in figures:
        row, _, column = figure.name.partition(": ")
        units[column] = figure.unit
        rows.setdefault(row, {})[column] = f"{figure.value:,.1f}" if figure.value < 1000 else f"{figure.value:,.0f}"
    # A heading of two lines: "TTFT" over "p50 ms".
    above = {column: column.rpartition(" ")[0] or column for column in units}
    below = {column: f"{column.removeprefix(above[column])} {unit}".strip() for column, unit in units.items()}
    lines = [("", above), ("", below), *rows.items()]
    first = max(len(name) for name, _ in lines)
    widths = {column: max(len(cells.get(column, "")) for _, cells in lines) for column in units}
    for name, cells in lines:
        yield f"{name:<{first}}" + "".join(f" {cells.get(column, ''):>{widths[column]}}" for column in units)


def save(text: str, report: Report, at: datetime, folder: Path) -> Path:
    """Write JSON lines to a file named by case and date; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.case}-{at:%Y%m%dT%H%M%SZ}.jsonl"
    path.write_text(text)
    return path


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    import torch  # noqa: PLC0415 - the rest of this module is plain Python

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
