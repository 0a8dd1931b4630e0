"""What the process sets before anything else."""

import gc
from collections.abc import Iterator

import pytest

from headway_operator.__main__ import EXIT_SETTINGS, main


@pytest.fixture
def _collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_collector")
def test_the_samples_of_a_large_fleet_are_walked_seldom_and_the_objects_of_a_decision_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gc.set_threshold(700, 10, 10)
    monkeypatch.delenv("HEADWAY_NAMESPACE", raising=False)
    assert main() == EXIT_SETTINGS
    assert "HEADWAY_NAMESPACE" in capsys.readouterr().err
    young, middle, old = gc.get_threshold()
    assert young > 50_000  # what a decision about 5,000 engines makes
    assert young * middle * old > 3_000_000
