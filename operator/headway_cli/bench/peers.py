"""The comparison engine's figures, from a file like `benchmarks/peers.json`; and what it made of one online load beside us.

peers    by kind of GPU, shape, case and parameter: one figure each, which `compare` sets beside our results
goals    the same for what we want to reach
online   by kind of GPU, shape and rate: a whole report of `headway bench online`, as far as it was measured; and
         `duration_s`, how long the arrivals lasted
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway_cli.bench import report
from headway_cli.bench.workload import Workload
from headway_cli.errors import CliError

FILE = Path("benchmarks/peers.json")
# A figure's name -> where a report has it, and whether more of it is better.
_FIGURES: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "good": (("good_share",), True),
    "TTFT p50": (("ttft_ms", "p50"), False),
    "TTFT p95": (("ttft_ms", "p95"), False),
    "TPOT p50": (("tpot_ms", "p50"), False),
    "TPOT p95": (("tpot_ms", "p95"), False),
    "gap p99": (("gap_ms", "p99"), False),
    "output tok/s": (("output_tokens_per_s",), True),
}


@dataclass(frozen=True, slots=True)
class Over:
    """One figure of ours and the peer's; `ratio`: how many times better ours is, None where one of them is nothing."""

    figure: str
    ours: float | None
    peer: float
    ratio: float | None


def read(file: Path) -> Mapping[str, Any]:
    """The file's contents.

    Raises:
        CliError: it cannot be read, or lacks one of its parts.
    """
    try:
        reference: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        parts = [reference[part] for part in ("peers", "goals", "online")]
    except OSError as error:
        raise CliError(f"--peers {file}: {error.strerror} (a checkout of Headway has one)") from None
    except (ValueError, RecursionError) as error:
        raise CliError(f"--peers {file}: {error}") from None
    except (KeyError, TypeError):
        parts = [None]
    if not all(isinstance(part, dict) for part in parts):
        raise CliError(f"--peers {file}: needs objects `peers`, `goals` and `online` by kind of GPU")
    return reference


def online(options: argparse.Namespace, workload: Workload) -> Mapping[str, Any]:
    """What the peer named by `--peer` made of this load.

    Raises:
        CliError: it was not measured under it.
    """
    section = read(options.peers)["online"]
    kinds = {device: shapes for device, shapes in section.items() if isinstance(shapes, dict)}
    measured = {f"{device}/{shape}": rates for device, shapes in kinds.items() for shape, rates in shapes.items()}
    if options.peer not in measured:
        raise CliError(f"--peer must be one of {', '.join(map(repr, measured))}, got {options.peer!r}")
    rates: Mapping[str, Mapping[str, Any]] = measured[options.peer]
    if f"{options.rate:g}" not in rates:
        raise CliError(f"--rate must be one of {', '.join(rates)} with --peer {options.peer!r}, got {options.rate:g}")
    duration_s = section["duration_s"]
    if workload != Workload(options.rate, duration_s):
        raise CliError(f"--peer was measured with --duration {duration_s}, and the default seed and lengths")
    return rates[f"{options.rate:g}"]


def over(found: report.Report, peer: Mapping[str, Any]) -> list[Over]:
    """Our figures beside the peer's, those that it has."""
    ours, rows = report.as_json(found), []
    for name, (path, more_is_better) in _FIGURES.items():
        theirs = _at(peer, path)
        if theirs is not None:
            own = _at(ours, path)
            rows.append(Over(name, own, theirs, ratio(own, theirs, more_is_better)))
    return rows


def ratio(ours: float | None, peer: float, more_is_better: bool) -> float | None:
    """How many times better ours is than the peer's; above 1 is better."""
    if not ours or not peer:
        return None
    return ours / peer if more_is_better else peer / ours


def as_json(rows: Sequence[Over]) -> list[dict[str, object]]:
    """Plain data, for `--json`."""
    return [asdict(row) for row in rows]


def as_text(name: str, rows: Sequence[Over]) -> str:
    """The same for people."""
    lines = [f"{'':<14}{'ours':>10}{'peer':>10}{'ratio':>8}  {name}"]
    for row in rows:
        ours = "-" if row.ours is None else f"{row.ours:,.2f}"
        better = "-" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"{row.figure:<14}{ours:>10}{row.peer:>10,.2f}{better:>8}")
    return "\n".join(lines)


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    node: Any = figures
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, int | float) else None
