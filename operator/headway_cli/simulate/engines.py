"""Step models from a file: the ones that come with Headway, or one of the user's."""

import csv
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from headway_cli.errors import CliError
from headway_planner.steps import StepModel

BUILT_IN = Path(__file__).parent / "data" / "engines.csv"


def load(path: Path, name: str | None = None) -> StepModel:
    """The named engine of a file, the first one without a name.

    Raises:
        CliError: the file or the engine is not there, or a column is missing or no number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot read the engine file {path}: {error.strerror}") from None
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    names = [row.get("name", "") for row in rows]
    if not rows or (name is not None and name not in names):
        raise CliError(f"no engine {name or ''} in {path}; it has: {', '.join(names)}")
    row = rows[names.index(name)] if name is not None else rows[0]
    return _model(row, path)


def _model(row: dict[str, str], path: Path) -> StepModel:
    numbers = {}
    for column in _columns():
        try:
            value = float(row[column])
        except (KeyError, TypeError, ValueError):
            raise CliError(f"engine {row['name']} in {path}: {column} is missing or no number") from None
        numbers[column] = value
    gpus, kv_tokens = int(numbers.pop("gpus")), int(numbers.pop("kv_tokens"))
    return StepModel(row["name"], gpus, kv_tokens=kv_tokens, **numbers)


def _columns() -> Iterable[str]:
    return (field.name for field in fields(StepModel) if field.name != "name")
