"""Request traces: CSV with arrival_s, input_tokens, output_tokens and perhaps class or service; `.gz` is unpacked.

Without a class column the service decides where it is a known public one, else the class is the caller's default.
"""

import csv
import gzip
import io
from pathlib import Path

from headway_cli.errors import CliError
from headway_planner.sim.jobs import Arrival, Rank

_CLASS_OF_SERVICE = {"azure-code": Rank.REALTIME, "m-small": Rank.REALTIME, "deepseek-r1": Rank.BATCH}
_NEEDED = ("arrival_s", "input_tokens", "output_tokens")


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
        raw = path.read_bytes()
        text = gzip.decompress(raw).decode() if path.suffix == ".gz" else raw.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read the trace {path}: {error}") from None
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise CliError(f"{path} has no column {', '.join(missing)}; a trace has {', '.join(_NEEDED)} and perhaps class")
    found = [_arrival(row, default, f"{path}, line {reader.line_num}") for row in reader]
    if not found:
        raise CliError(f"{path} has no requests")
    found.sort(key=lambda arrival: arrival.at_s)
    start_s = found[0].at_s
    shifted = (Arrival(one.at_s - start_s, one.inputs, one.outputs, one.rank) for one in found)
    return [one for one in shifted if limit_s is None or one.at_s <= limit_s]


def _arrival(row: dict[str, str], default: Rank, where: str) -> Arrival:
    try:
        at_s, inputs, outputs = float(row["arrival_s"]), int(row["input_tokens"]), int(row["output_tokens"])
    except (TypeError, ValueError):
        raise CliError(f"{where}: arrival_s, input_tokens and output_tokens must be numbers") from None
    if not (0 <= at_s < float("inf")) or inputs < 1 or outputs < 1:
        raise CliError(f"{where}: arrival_s must be at least 0, both token counts at least 1")
    name = row.get("class")
    if not name:
        return Arrival(at_s, inputs, outputs, _CLASS_OF_SERVICE.get(row.get("service") or "", default))
    try:
        return Arrival(at_s, inputs, outputs, Rank[name.upper()])
    except KeyError:
        names = ", ".join(rank.name.lower() for rank in Rank)
        raise CliError(f"{where}: class must be one of {names}, got {name!r}") from None
