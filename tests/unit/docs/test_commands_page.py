"""docs/reference/commands.md is what the parsers say."""

import sys
from pathlib import Path

import commands
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse lists short options otherwise since Python 3.13")
def test_the_page_of_commands_equals_what_the_generator_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # the reader's terminal must not matter

    assert commands.render() == (ROOT / "docs/reference/commands.md").read_text()
