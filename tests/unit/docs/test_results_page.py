"""The tables of the control loop's results are what the lines say that the page names."""

import re
from pathlib import Path

import control_report as report
import unseen_case

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/control.md").read_text()
EXPERIMENTS = (ROOT / "docs/control-experiments.md").read_text()


def _rows(text: str) -> list[report.Row]:
    """Ours, first, from its own run, all others from theirs: the files that the text names before its first table."""
    named = re.findall(r"control-[\w-]*\d{8}T\d{6}Z\.jsonl", text[: text.index("\n| ")])
    found: list[report.Row] = []
    for name in named:
        ours = name.startswith(("control-headway", "control-batch-headway"))
        rows = report.read([ROOT / "benchmarks/results" / name])
        found += [row for row in rows if (row["policy"] == report.OURS) == ours]
    return sorted(found, key=lambda row: row["policy"] != report.OURS)


RESULTS = PAGE[PAGE.index("\n## Results") :]
UNSEEN = EXPERIMENTS[EXPERIMENTS.index("\n## Traces that nobody tuned to") :]
BATCH = EXPERIMENTS[EXPERIMENTS.index("\n## 40 % batch work") :]


def test_the_table_of_cells_is_what_the_results_say() -> None:
    assert report.cells(_rows(RESULTS)) in RESULTS


def test_the_table_of_all_policies_is_what_the_results_say_without_matched_rivals() -> None:
    table = report.table([row for row in _rows(RESULTS) if row["start_delay_s"] == 100.0])

    kept = [line for line in table.splitlines() if "-matched |" not in line]

    assert "\n".join(kept) in EXPERIMENTS


def test_the_table_of_batch_work_is_what_the_results_say() -> None:
    assert report.table(_rows(BATCH)) in BATCH


def test_the_tables_of_traces_that_nobody_tuned_to_are_what_the_results_say() -> None:
    named = re.findall(r"control-unseen-\d{8}T\d{6}Z\.jsonl", UNSEEN)
    rows = report.read(ROOT / "benchmarks/results" / name for name in named)

    assert unseen_case.table(rows, 5.0) in UNSEEN
    assert unseen_case.table(rows, 100.0) in UNSEEN


def test_the_table_of_the_order_in_an_overload_is_what_the_results_say() -> None:
    section = EXPERIMENTS.partition("\n## The order of an overload")[2].partition("\n## ")[0]
    [name] = re.findall(r"control-late-\d{8}T\d{6}Z\.jsonl", section)
    kept = re.findall(r"control-headway-(?:unseen-)?\d{8}T\d{6}Z\.jsonl", section)
    late, in_order = (
        report.grouped(report.read(ROOT / "benchmarks/results" / one for one in names)) for names in ([name], kept)
    )
    lines = re.findall(r"^\| ([\w-]+), (\d+) s \| (.+?) \| .+? \| (.+?) \| .+? \|$", section, re.MULTILINE)
    assert len(lines) == 31
    for trace, start, before, after in lines:
        key = trace, float(start)
        now = late[key][report.OURS]
        assert (before, after) == (in_order[key][report.OURS].over(now.seeds).cell(), now.cell())
