"""An online load beside what the comparison engine made of it: the same traffic, the right direction, refusals by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headway_cli.bench import peers
from headway_cli.bench.report import Objective, Record, summarize
from headway_cli.errors import CliError
from headway_cli.main import run

PEER: Mapping[str, Any] = {
    "good_share": 0.5,
    "ttft_ms": {"p50": 400, "p95": 400},
    "tpot_ms": {"p50": 20},
    "output_tokens_per_s": 11,
}
BENCH = ["bench", "online", "--address", "127.0.0.1:1"]


def test_more_tokens_and_fewer_milliseconds_are_better_and_only_what_was_measured_is_compared() -> None:
    record = Record(0.0, 0.0, 0.1, 0.5, 11, (40.0,) * 10, "OK")
    rows = {one.figure: one for one in peers.over(summarize([record], Objective(500, 50)), PEER)}
    assert {name: pytest.approx(one.ratio) for name, one in rows.items()} == {
        "good": 2.0,
        "TTFT p50": 4.0,
        "TTFT p95": 4.0,
        "TPOT p50": 0.5,
        "output tok/s": 2.0,
    }
    text = peers.as_text("G/s", list(rows.values())).splitlines()
    assert [line.split() for line in text[:3]] == [
        ["ours", "peer", "ratio", "G/s"],
        ["good", "1.00", "0.50", "2.00"],
        ["TTFT", "p50", "100.00", "400.00", "4.00"],
    ]


def test_a_load_without_an_answer_has_no_ratio() -> None:
    refused = Record(0.0, 0.0, None, None, 0, (), "RESOURCE_EXHAUSTED")
    rows = peers.over(summarize([refused], Objective(500, 50)), PEER)
    assert [one.ratio for one in rows] == [None] * 5
    assert "-" in peers.as_text("G/s", rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--rate", "40", "--peer", "x"],
            "--peer must be one of 'NVIDIA H200/llama8b', 'NVIDIA H200/qwen06b', got 'x'",
        ),
        (["--rate", "41", "--peer", "NVIDIA H200/llama8b"], "--rate must be one of 10, 20, 30, 40, 50, 60 with --peer"),
        (["--rate", "40", "--seed", "1", "--peer", "NVIDIA H200/llama8b"], "--peer was measured with --duration 25"),
        (
            ["--rate", "40", "--duration", "5", "--peer", "NVIDIA H200/llama8b"],
            "--peer was measured with --duration 25",
        ),
    ],
)
def test_a_load_that_the_peer_did_not_get_is_refused_before_it_is_sent(flags: list[str], message: str) -> None:
    with pytest.raises(CliError, match=message):
        run([*BENCH, *flags])


def test_peers_without_online_figures_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text(json.dumps({"peers": {}, "goals": {}}))
    with pytest.raises(CliError, match="needs objects `peers`, `goals` and `online` by kind of GPU"):
        run([*BENCH, "--rate", "40", "--peer", "x", "--peers", str(file)])
