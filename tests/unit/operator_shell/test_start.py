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
def test_the_samples_of_a_large_fleet_are_not_walked_every_few_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gc.set_threshold(700, 10, 10)
    monkeypatch.delenv("HEADWAY_NAMESPACE", raising=False)
    assert main() == EXIT_SETTINGS
    assert "HEADWAY_NAMESPACE" in capsys.readouterr().err
    assert gc.get_threshold()[2] > 100
