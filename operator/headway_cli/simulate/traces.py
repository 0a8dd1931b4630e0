"""Request traces: CSV with arrival_s, input_tokens, output_tokens and perhaps class, service or deadline_s; `.gz` is unpacked.

deadline_s is for batch requests: from its arrival, by when it must be finished. Without a class column the service decides where it is a known public one, else the class is the caller's default.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from headway_cli.errors import CliError
from headway_planner.sim.jobs import Arrival, Rank

_CLASS_OF_SERVICE = {"azure-code": Rank.REALTIME, "m-small": Rank.REALTIME, "deepseek-r1": Rank.BATCH}
_NEEDED = ("arrival_s", "input_tokens", "output_tokens")
MOST_TOKENS = 10_485_760  # of a prompt or an answer: the longest context that an engine can be given
LONGEST_S = 366 * 86_400.0  # from the first arrival to the last


def read(path: Path, default: Rank, limit_s: float | None = None) -> list[Arrival]:
    """The requests of a trace by arrival, times from its first one.

    Args:
        path: the file.
        default: class of requests that name none.
        limit_s: read no further than this.

    Raises:
        CliError: the file cannot be read, or a line is wrong; the message names it.
    """
    try:
        with _opened(path) as file:
            found = list(_arrivals(file, path, default))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise CliError(f"cannot read the trace {path}: {error}") from None
    if not found:
        raise CliError(f"{path} has no requests")
    found.sort(key=lambda arrival: arrival.at_s)
    start_s, span_s = found[0].at_s, found[-1].at_s - found[0].at_s
    if span_s > LONGEST_S:
        raise CliError(f"{path}: arrival_s spans {span_s:.0f} s, at most {LONGEST_S:.0f} are simulated")
    shifted = (replace(one, at_s=one.at_s - start_s) for one in found)
    return [one for one in shifted if limit_s is None or one.at_s <= limit_s]


def due(arrivals: Sequence[Arrival], deadline_s: float) -> list[Arrival]:
    """The arrivals, those of batch without a deadline with this one."""
    return [
        replace(one, deadline_s=deadline_s) if one.rank is Rank.BATCH and not one.deferrable else one
        for one in arrivals
    ]


def _opened(path: Path) -> TextIO:
    # utf-8-sig: spreadsheets write a mark before the first column's name.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _arrivals(file: TextIO, path: Path, default: Rank) -> Iterator[Arrival]:
    reader = csv.DictReader(file)
    columns = list(reader.fieldnames or ())
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise CliError(f"{path} has no column {', '.join(missing)}; a trace has {', '.join(_NEEDED)} and perhaps class")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise CliError(f"{path} has column {', '.join(twice)} more than once")
    for row in reader:
        yield _arrival(row, default, f"{path}, line {reader.line_num}")


def _arrival(row: dict[str, str], default: Rank, where: str) -> Arrival:
    try:
        at_s, inputs, outputs = float(row["arrival_s"]), int(row["input_tokens"]), int(row["output_tokens"])
    except (TypeError, ValueError):
        raise CliError(f"{where}: arrival_s, input_tokens and output_tokens must be numbers") from None
    if not (0 <= at_s < float("inf")) or inputs < 1 or outputs < 1:
        raise CliError(f"{where}: arrival_s must be at least 0, both token counts at least 1")
    if max(inputs, outputs) > MOST_TOKENS:
        raise CliError(f"{where}: input_tokens and output_tokens must be at most {MOST_TOKENS}")
    rank = _rank(row, default, where)
    return Arrival(at_s, inputs, outputs, rank, _deadline_s(row, rank, where))


def _deadline_s(row: dict[str, str], rank: Rank, where: str) -> float:
    text = row.get("deadline_s")
    if not text:
        return math.inf
    try:
        deadline_s = float(text)
    except ValueError:
        raise CliError(f"{where}: deadline_s must be a number, got {text!r}") from None
    if not deadline_s > 0:
        raise CliError(f"{where}: deadline_s must be above 0")
    if rank is not Rank.BATCH:
        raise CliError(f"{where}: deadline_s is for requests of class batch")
    return deadline_s


def _rank(row: dict[str, str], default: Rank, where: str) -> Rank:
    name = row.get("class")
    if not name:
        return _CLASS_OF_SERVICE.get(row.get("service") or "", default)
    try:
        return Rank[name.upper()]
    except KeyError:
        names = ", ".join(rank.name.lower() for rank in Rank)
        raise CliError(f"{where}: class must be one of {names}, got {name!r}") from None
