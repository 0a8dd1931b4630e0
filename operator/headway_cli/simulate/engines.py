"""Step models in files: the ones that come with Headway, or those of `headway bench calibrate`.

CSV with a row for each engine; the columns are the fields of `StepModel` and `format`, lines that begin with # are remarks. The
last ones, from `prefill_factor` on, may be left out: they have their defaults. `decode_sizes` is written `1:4.13 2:4.34`. A file
without `format` is of format 1, which had no `prompt_end_ms` and no `first_token_each_ms`; format 2 had no `decode_sizes`.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path

from headway_cli.errors import CliError
from headway_planner.steps import StepModel

BUILT_IN = Path(__file__).parent / "data" / "engines.csv"
FORMAT = 3
_COLUMNS = tuple(field.name for field in fields(StepModel))
_LEAST = {"gpus": 1, "kv_tokens": 1}  # of the others that are not signed: 0
_MOST = {"gpus": 4096, "kv_tokens": 1_000_000_000}
_SIGNED = ("a1_ms", "a2_ms")  # the constants of two lines of which the larger one holds
_WHOLE = ("gpus", "kv_tokens", "ahead")
_NO_NUMBER = ("name", "decode_sizes")


def load(path: Path, name: str | None = None) -> StepModel:
    """The named engine of a file, the first one without a name.

    Raises:
        CliError: the file or the engine is not there, its format is newer, or a column is missing, unknown or out of its
            limits; the message names it.
    """
    rows = _rows(path)
    names = [row.get("name") or "" for row in rows]
    if name is not None and name not in names:
        raise CliError(f"no engine {name} in {path}; it has: {', '.join(names)}")
    return _model(rows[names.index(name)] if name is not None else rows[0], path)


def load_all(path: Path) -> list[StepModel]:
    """Every engine of a file.

    Raises:
        CliError: as `load`.
    """
    return [_model(row, path) for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise CliError(f"cannot read the engine file {path}: {why}") from None
    if not rows:
        raise CliError(f"no engine in {path}")
    return rows


def save(path: Path, model: StepModel, remarks: Sequence[str]) -> None:
    """Write a file of one engine, remarks first.

    Raises:
        CliError: it cannot be written.
    """
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in remarks)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["format", *_COLUMNS])
    writer.writerow([FORMAT, *(_cell(getattr(model, column)) for column in _COLUMNS)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot write the engine file {path}: {error.strerror}") from None


def _cell(value: str | float | tuple[tuple[int, float], ...]) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{size}:{ms:.6g}" for size, ms in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else str(int(value))  # int: a bool too


def _model(row: dict[str, str], path: Path) -> StepModel:
    where = f"engine {row.get('name') or ''} in {path}"
    _check_columns(row, where)
    values: dict[str, float] = {}
    for field in fields(StepModel):
        if field.name not in _NO_NUMBER and not (row.get(field.name) is None and field.default is not MISSING):
            values[field.name] = _number(row, field.name, where)
    gpus, kv_tokens, ahead = (int(values.pop(column, 0)) for column in _WHOLE)
    if values["a1_ms"] + values["b1_ms"] <= 0 and values["a2_ms"] + values["b2_ms"] <= 0:
        raise CliError(f"{where}: a1_ms + b1_ms or a2_ms + b2_ms must be above 0, or a step takes no time")
    sizes = _sizes(row.get("decode_sizes") or "", where)
    return StepModel(row["name"], gpus, kv_tokens=kv_tokens, ahead=bool(ahead), decode_sizes=sizes, **values)


def _sizes(text: str, where: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [(int(size), float(ms)) for size, ms in (one.split(":") for one in text.split())]
    except ValueError:
        raise CliError(f"{where}: decode_sizes must be written like 1:4.13 2:4.34, got {text}") from None
    sizes = [0, *(size for size, _ in pairs)]
    if any(after <= before for before, after in pairwise(sizes)) or not all(0 < ms < math.inf for _, ms in pairs):
        raise CliError(f"{where}: decode_sizes must be ascending sequences, each with a time above 0, got {text}")
    return tuple(pairs)


def _check_columns(row: dict[str, str], where: str) -> None:
    known = [str(number) for number in range(1, FORMAT + 1)]
    if (given := row.get("format", "1")) not in known:
        raise CliError(f"{where}: format {given} is not known here; this version reads {' and '.join(known)}")
    for column in row:
        if column is None:
            raise CliError(f"{where}: more values than columns")
        if column not in ("format", *_COLUMNS):
            raise CliError(f"{where}: there is no column {column}; the columns are format, {', '.join(_COLUMNS)}")


def _number(row: dict[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError):
        raise CliError(f"{where}: {column} is missing or no number") from None
    least = -math.inf if column in _SIGNED else _LEAST.get(column, 0)
    if not math.isfinite(value) or value < least:
        limit = "a finite number" if column in _SIGNED else f"a finite number of at least {least}"
        raise CliError(f"{where}: {column} must be {limit}, got {row[column]}")
    if value > _MOST.get(column, math.inf):
        raise CliError(f"{where}: {column} must be at most {_MOST[column]}, got {row[column]}")
    if column in _WHOLE and value != int(value):
        raise CliError(f"{where}: {column} must be a whole number, got {row[column]}")
    if column == "ahead" and value > 1:
        raise CliError(f"{where}: ahead must be 0 or 1, got {row[column]}")
    return value
