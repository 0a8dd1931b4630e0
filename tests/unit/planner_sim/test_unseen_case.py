"""The table of traces that nobody tuned to: a line a draw, and who was as punctual as ours for how much."""

import control_report as report
import unseen_case


def row(policy: str, attainment: float, hours: float, trace: str = "sine-0", delay_s: float = 100.0) -> report.Row:
    figures = {"attainment": attainment, "gpu_hours": hours, "reversals_per_hour": 1.0}
    return {"trace": trace, "policy": policy, "seed": 0, "start_delay_s": delay_s, **figures}


ROWS = [
    row("headway", 0.90, 2.0),
    row("hpa", 0.95, 3.0),
    row("keda", 0.91, 2.5),
    row("keda", 0.5, 0.1, delay_s=5.0),
    row("hpa-tuned", 0.99, 2.8),
    row("hpa-matched", 0.90, 1.9),
    row("dynamo-tuned", 0.80, 1.0),
    row("clairvoyant", 1.0, 0.5),
    row("work-bound", 1.0, 0.2),
]
BESIDE = [row("headway", 1.0, 1.0, "flash-1"), row("hpa", 0.7, 9.0, "flash-1"), row("keda", 0.8, 9.5, "flash-1")]
BOTH = [*ROWS, *BESIDE, row("hpa-tuned", 0.6, 5.0, "flash-1"), row("clairvoyant", 1.0, 0.9, "flash-1")]


def test_a_line_has_the_cheapest_as_punctual_at_defaults_and_in_hindsight():
    line = unseen_case.table(ROWS, 100.0).splitlines()[-1]
    assert line == (
        "| sine-0 | 90.00 / 2.00 / 1.0 | keda 91.00 / 2.50 / 1.0 | 0.80 | hpa-matched 90.00 / 1.90 / 1.0 | 1.05 |"
        " 100.00 / 0.50 / 1.0 |"
    )


def test_where_nobody_is_as_punctual_the_most_punctual_stands_in_brackets():
    line = unseen_case.table(BOTH, 100.0).splitlines()[-1]
    assert "| none (keda 80.00 / 9.50 / 1.0) | - | none (hpa-tuned 60.00 / 5.00 / 1.0) | - |" in line


def test_lines_are_in_the_order_of_the_forms_then_the_draws():
    more = [one | {"trace": trace} for trace in ("sine-10", "sine-2") for one in ROWS]
    lines = unseen_case.table([*more, *BOTH], 100.0).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| sine-0", "| sine-2", "| sine-10", "| flash-1"]


def test_every_rival_runs_at_its_defaults():
    assert {"keda", "knative", "knative-300", "wva-v1", "wva-v2", "llmd-slo"} == set(unseen_case.AT_DEFAULTS)
