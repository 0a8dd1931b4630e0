"""What a benchmark of a live cluster says of its samples, and what it refuses to start with."""

import argparse
from pathlib import Path

import pytest

from headway_cli.bench import fleet
from headway_cli.errors import CliError


def test_a_goal_is_met_by_the_worst_sample_not_by_the_median() -> None:
    line = fleet.result("limit change on every pod", [0.1, 0.2, 3.5])
    assert (line["median_s"], line["max_s"], line["goal_met"]) == (0.2, 3.5, False)
    assert fleet.result("limit change on every pod", [0.1, 3.0])["goal_met"]


def test_a_missed_goal_is_marked_in_the_table() -> None:
    rows = fleet.table([fleet.result("repair of an owned object", [2.5]), fleet.result("apply to first token", [7.0])])
    missed, met = rows.splitlines()[1:]
    assert missed.endswith("MISSED")
    assert not met.endswith("MISSED")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"kind: Pod", "not an LLMDeployment"),
        (b"a: [", "--manifest"),
        (b"\xff", "--manifest"),
        (None, "No such file"),
        (b"kind: LLMDeployment", r"metadata\.name is missing"),
        (b"kind: LLMDeployment\nmetadata: {name: x}\nspec: [1]", r"spec\.engine\.limits\.maxNumSeqs is missing"),
    ],
)
def test_a_manifest_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "fleet.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CliError, match=words):
        fleet.command(argparse.Namespace(manifest=str(path), repeats=1))
