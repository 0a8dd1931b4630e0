"""Cells are compared in the right direction, the newest figure counts, and what is missing is said."""

import json
import re
from pathlib import Path

import pytest

from headway_cli.bench.compare import compare, newest_figures
from headway_cli.errors import CliError
from headway_cli.main import run

PEERS = {"s": {"offline256": 100.0, "decode": {"1": 2.0, "8": 4.0}}}
GOALS = {"s": {"offline256": 150.0, "decode": {"1": 1.0}}}


def result(folder: Path, name: str, date: str, gpu: str, **figures: float) -> None:
    lines = [{"kind": "run", "date": date, "gpus": [gpu]}]
    lines += [{"kind": "figure", "name": key.replace("_", " "), "value": value} for key, value in figures.items()]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_more_tokens_and_fewer_milliseconds_are_better() -> None:
    newest = {"s offline256": (120.0, "d"), "s decode b=1": (1.0, "d"), "s decode b=8": (5.0, "d")}
    cells = {cell.cell: cell for cell in compare(PEERS, GOALS, newest)}
    assert {name: (cell.ratio, cell.goal_met) for name, cell in cells.items()} == {
        "s offline256": (1.2, False),
        "s decode 1": (2.0, True),
        "s decode 8": (0.8, None),
    }


def test_a_higher_rate_and_a_shorter_gap_are_better() -> None:
    peers = {"s": {"online": 40.0, "online gap": {"40": 80.0}}}
    newest = {"s online capacity": (60.0, "d"), "s online r=40 gap p99": (40.0, "d")}
    assert [cell.ratio for cell in compare(peers, {}, newest)] == [1.5, 2.0]


def test_a_cell_that_nobody_measured_is_listed_and_its_goal_not_met() -> None:
    cells = list(compare(PEERS, GOALS, {}))
    assert [(cell.ours, cell.ratio, cell.goal_met) for cell in cells] == [
        (None, None, False),
        (None, None, False),
        (None, None, None),
    ]


def test_the_newest_figure_of_the_device_counts(tmp_path: Path) -> None:
    result(tmp_path, "b", "2026-01-02", "G", s_offline256=2.0)
    result(tmp_path, "a", "2026-01-03", "G", s_offline256=3.0)
    result(tmp_path, "c", "2026-01-04", "other", s_offline256=4.0)
    assert newest_figures(tmp_path, "G") == {"s offline256": (3.0, "2026-01-03")}


def test_the_committed_results_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "compare", "--device", "NVIDIA H200", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 30
    assert all(line["ratio"] > 0 for line in lines if line["ours"] is not None)
    assert sum(line["ours"] is not None for line in lines) >= 30
    assert {tuple(line) for line in lines} == {("cell", "ours", "peer", "goal", "ratio", "goal_met")}
    assert run(["bench", "compare"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert max(map(len, table)) <= 80
    assert table[1].startswith("smol135m offline256 ")
    assert re.search(r" tok/s \d{4}-\d\d-\d\d$", table[1])
    assert re.fullmatch(r"\d+ of 30 cells are ahead of the peer, \d+ of 30 goals are reached", table[-1])


def test_where_there_is_no_goal_none_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "compare", "--device", "2x NVIDIA H200, NVLink, TP=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "0 of 9 cells are ahead of the peer, 0 of 0 goals are reached"
    assert lines[-2].endswith(" never")


@pytest.mark.parametrize(
    "line",
    [
        "{not json",
        "[]",
        '{"kind": "run", "gpus": ["NVIDIA H200"]}',
        '{"kind": "run", "date": "d", "gpus": ["NVIDIA H200"]}\n{"kind": "figure", "name": "x", "value": NaN}',
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(CliError, match=r"bad\.jsonl, line [12] is no result"):
        run(["bench", "compare", "--results", str(tmp_path)])


def test_a_figure_of_zero_milliseconds_has_no_ratio() -> None:
    cells = compare({"s": {"decode": {"1": 2.0}}}, {}, {"s decode b=1": (0.0, "d")})
    assert [cell.ratio for cell in cells] == [None]


def test_peers_that_are_not_there_are_named_once() -> None:
    with pytest.raises(
        CliError, match=r"^--peers nowhere\.json: No such file or directory \(a checkout of Headway has one\)$"
    ):
        run(["bench", "compare", "--peers", "nowhere.json"])


@pytest.mark.parametrize("text", ["[]", "{}", '{"peers": {}, "goals": []}', "[" * 100_000])
def test_peers_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "peers.json").write_text(text)
    with pytest.raises(CliError, match="--peers"):
        run(["bench", "compare", "--peers", str(tmp_path / "peers.json")])


def test_an_unknown_device_is_told_the_known_ones() -> None:
    with pytest.raises(CliError, match=r"--device must be one of 'NVIDIA H200', 'NVIDIA H100 80GB HBM3', .*, got 'x'"):
        run(["bench", "compare", "--device", "x"])
