"""docs/how-to/find-out-why.md explains every word of the vocabulary, and no other."""

import re
from pathlib import Path

from headway_operator.api.conditions import ConditionType, Reason

ROOT = Path(__file__).resolve().parents[3]

_PAGE = ROOT / "docs/how-to/find-out-why.md"
_ROW = re.compile(r"^\| (`?[A-Z][A-Za-z, `]+) \|", re.MULTILINE)


def _table(heading: str) -> list[str]:
    part = _PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [word.strip("`") for cell in _ROW.findall(part) for word in cell.split(", ")]


def test_every_condition_reason_has_its_row_and_no_other_word_has() -> None:
    assert sorted(_table("Reasons")) == sorted(reason.value for reason in Reason)


def test_every_condition_type_has_its_row_and_no_other_word_has() -> None:
    assert sorted(_table("Conditions")) == sorted(kind.value for kind in ConditionType)
