"""The report of `make bench-control`: what is compared with what."""

from pathlib import Path

import control_report as report
import pytest
from matplotlib.figure import Figure


def row(policy: str, attainment: float, hours: float, seed: int = 0) -> report.Row:
    figures = {"attainment": attainment, "gpu_hours": hours, "reversals_per_hour": 1.0}
    return {"trace": "t", "policy": policy, "seed": seed, "start_delay_s": 30.0, **figures}


ROWS = [
    row("headway", 0.999, 2.0),
    row("headway", 0.997, 1.0, seed=1),
    row("hpa", 0.999, 1.2),  # at its defaults: no tuned rival
    row("hpa-tuned", 0.998, 2.0),
    row("keda-tuned", 0.95, 0.5),  # cheaper and later than ours
    row("clairvoyant", 1.0, 1.25),
]


def test_cells_are_means_over_the_seeds():
    assert "| headway | 99.80 / 1.50 / 1.0 |" in report.table(ROWS)


def test_ours_is_compared_with_the_cheapest_tuned_rival_that_is_as_punctual_on_the_seeds_of_both():
    line = report.cells(ROWS).splitlines()[-1]
    assert line.startswith("| t, 30 s | 2 | 99.80 / 1.50 / 1.0 | none | - | - |")
    more = [*ROWS, row("hpa-matched", 0.999, 2.5), row("dynamo-tuned", 0.997, 1.25, seed=1)]
    line = report.cells(more).splitlines()[-1]
    assert "| hpa-matched 99.90 / 2.50 / 1.0 | 1 | 0.80 | 100.00 / 1.25 / 1.0 | 1.60 |" in line


def test_a_rival_that_misses_deadlines_is_not_as_punctual():
    late, kept = (
        row("hpa-tuned", 1.0, 1.0) | {"deadlines_met": 0.9},
        row("keda-tuned", 1.0, 3.0) | {"deadlines_met": 1.0},
    )
    rows = [row("headway", 1.0, 2.0) | {"deadlines_met": 1.0}, late, kept]
    assert "keda-tuned 100.00 / 3.00 / 1.0 / 100.00 | 1 | 0.67 |" in report.cells(rows)
    assert "| hpa-tuned | 100.00 / 1.00 / 1.0 / 90.00 |" in report.table(rows)


def test_the_plot_names_each_policy_once_and_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(report.plt, "close", drawn.append)
    report.draw([*ROWS, *(one | {"start_delay_s": 100.0} for one in ROWS)], tmp_path / "plots" / "one.png")
    (figure,) = drawn
    assert (tmp_path / "plots" / "one.png").stat().st_size > 10_000
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["headway", "hpa", "keda", "clairvoyant"]
    assert not any(axes.texts for axes in figure.axes)


def test_a_line_without_a_figure_is_refused():
    with pytest.raises(TypeError, match="gpu_hours is None"):
        report.table([row("headway", 1.0, 2.0) | {"gpu_hours": None}])
