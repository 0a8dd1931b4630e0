"""The tables of the control loop's results are what the lines say that the page names."""

import re
from pathlib import Path

import control_report as report

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/control.md").read_text()
EXPERIMENTS = (ROOT / "docs/control-experiments.md").read_text()


def _rows() -> list[report.Row]:
    """Ours from its own run, all others from theirs: the first two files that the results name."""
    results = PAGE[PAGE.index("\n## Results") :]
    ours, others = re.findall(r"benchmarks/results/(control-[\w-]*\d{8}T\d{6}Z\.jsonl)", results)[:2]
    read = {name: report.read([ROOT / "benchmarks/results" / name]) for name in (ours, others)}
    return [*read[ours], *(row for row in read[others] if row["policy"] != report.OURS)]


def test_the_table_of_cells_is_what_the_results_say() -> None:
    assert report.cells(_rows()) in PAGE


def test_the_table_of_all_policies_is_what_the_results_say_without_matched_rivals() -> None:
    table = report.table([row for row in _rows() if row["start_delay_s"] == 100.0])

    kept = [line for line in table.splitlines() if "-matched |" not in line]

    assert "\n".join(kept) in EXPERIMENTS
