"""The report of `make bench-control`: what is compared with what."""

import control_report as report
import pytest


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


def test_ours_is_compared_with_the_cheapest_tuned_rival_that_is_as_punctual():
    table = report.table(ROWS)
    assert "| **hours over best tuned rival** | 0.75 (hpa-tuned) |" in table
    assert "| **hours over clairvoyant** | 1.20 |" in table


def test_a_trace_on_which_no_rival_is_as_punctual_says_so():
    assert "none keeps up" in report.table([row("headway", 1.0, 2.0), row("hpa-tuned", 0.9, 1.0)])


def test_a_line_without_a_figure_is_refused():
    with pytest.raises(TypeError, match="gpu_hours is None"):
        report.table([row("headway", 1.0, 2.0) | {"gpu_hours": None}])
