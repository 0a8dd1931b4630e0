import json
from datetime import UTC, datetime
from pathlib import Path

from headway_engine.bench import report
from headway_engine.bench.report import Report

AT = datetime(2026, 11, 24, 5, 30, tzinfo=UTC)
RESULT = Report(
    "cpu",
    {"threads": 2},
    (
        report.of_samples("batch 1, ratio", "x", [0.5, 1.5, 1.25], goal=1.0),
        report.of_samples("batch 16, ratio", "x", [3.5], goal=4.0),
        report.of_samples("batch 1, headway", "tok/s", [20.0, 30.0]),
    ),
)


def test_the_quoted_value_is_the_median_and_its_samples_are_kept() -> None:
    first, second, third = RESULT.figures
    assert (first.value, first.samples, first.met) == (1.25, (0.5, 1.5, 1.25), True)
    assert (second.value, second.met) == (3.5, False)
    assert (third.value, third.met) == (25.0, None)


def test_json_lines_hold_the_run_and_then_each_figure() -> None:
    run, *figures = map(json.loads, report.as_lines(RESULT, {"cpu": "Zen"}, AT).splitlines())
    assert run == {
        "kind": "run",
        "case": "cpu",
        "date": "2026-11-24T05:30:00+00:00",
        "cpu": "Zen",
        "settings": {"threads": 2},
    }
    assert [figure["met"] for figure in figures] == [True, False, None]
    assert figures[0] == {
        "kind": "figure",
        "name": "batch 1, ratio",
        "unit": "x",
        "value": 1.25,
        "samples": [0.5, 1.5, 1.25],
        "goal": 1.0,
        "met": True,
    }


def test_the_table_says_which_goals_are_missed() -> None:
    lines = report.as_table(RESULT).splitlines()
    assert "goal 1 reached" in lines[1]
    assert "goal 4 MISSED" in lines[2]
    assert "goal" not in lines[3]


def test_figures_of_rows_and_columns_are_a_matrix_that_fits_a_terminal() -> None:
    names = ("throughput", "TTFT p50", "TTFT p95", "ITL p50", "ITL p95", "worst gap p50", "worst gap p95")
    rows = ("batch 64", "profile throughput")
    figures = [
        report.of_samples(f"{row}: {name}", "ms" if " " in name else "tok/s", [23456.7])
        for row in rows
        for name in names
    ]
    title, above, below, *lines = report.as_table(Report("batching", {"input": 64}, tuple(figures))).splitlines()
    assert title == "batching: input=64"
    assert above.split() == ["throughput", "TTFT", "TTFT", "ITL", "ITL", "worst", "gap", "worst", "gap"]
    assert below.split() == ["tok/s", *["p50", "ms", "p95", "ms"] * 3]
    assert [line[:18].rstrip() for line in lines] == list(rows)
    assert [line[18:].split() for line in lines] == [["23,457"] * 7] * 2
    assert {len(line) for line in (above, below, *lines)} == {77}


def test_results_are_saved_by_case_and_date(tmp_path: Path) -> None:
    path = report.save("text\n", RESULT, AT, tmp_path / "new")
    assert path == tmp_path / "new" / "cpu-20261124T053000Z.jsonl"
    assert path.read_text() == "text\n"


def test_the_environment_names_the_machine_and_the_versions() -> None:
    where = report.environment()
    assert where["cpu"]
    assert {"headway", "torch", "transformers"} <= set(where["versions"])
