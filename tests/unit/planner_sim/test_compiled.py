"""The compiled copy of the planner: made once for the same sources, and the last few are kept."""

from pathlib import Path

import compiled
import pytest


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planner and a command line of one file each; compiling them is copying a word."""
    source = tmp_path / "operator" / "headway_planner" / "steps.py"
    for folder in (source.parent, source.parent.with_name("headway_cli")):
        folder.mkdir(parents=True)
    source.write_text("one")

    def build(folder: Path) -> bool:
        folder.mkdir()
        (folder / "steps.so").write_text(source.read_text())
        return source.read_text() != "broken"

    monkeypatch.setattr(compiled, "_OPERATOR", tmp_path / "operator")
    monkeypatch.setattr(compiled, "build", build)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return source


def test_the_same_sources_are_compiled_once_and_others_anew(sources: Path, monkeypatch: pytest.MonkeyPatch):
    first = compiled.cached()
    assert first is not None
    sources.write_text("two")
    second = compiled.cached()
    assert second is not None
    assert (second / "steps.so").read_text() == "two"
    sources.write_text("one")
    monkeypatch.setattr(compiled, "build", None)
    assert compiled.cached() == first


def test_what_cannot_be_compiled_leaves_nothing(sources: Path):
    sources.write_text("broken")
    assert compiled.cached() is None
    assert list(sources.parents[2].glob("cache/headway/*")) == []


def test_the_last_copies_are_kept(sources: Path):
    for number in range(6):
        sources.write_text(str(number))
        compiled.cached()
    assert len(list(sources.parents[2].glob("cache/headway/*"))) == 4
