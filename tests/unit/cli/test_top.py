"""What `headway top` makes of two answers of an engine."""

import io

import pytest
from engine_samples import buckets
from rich.console import Console

from headway_cli.errors import CliError
from headway_cli.main import run
from headway_cli.top import engine_row, fleet_table
from headway_rpc import pb


def stats(boot: str, uptime_s: float, tokens: int, ttft: tuple[int, ...] = ()) -> pb.Stats:
    return pb.Stats(boot_id=boot, uptime_seconds=uptime_s, generation_tokens=tokens, ttft=pb.Histogram(buckets=ttft))


def test_rates_and_latencies_are_of_the_time_between_two_answers():
    slow, fast = tuple(buckets(900.0)), tuple(buckets(90.0))
    both = tuple(a + b for a, b in zip(slow, (*fast, *[0] * (len(slow) - len(fast))), strict=True))
    row = engine_row("p", stats("b", 100, 1000, slow), stats("b", 110, 1500, both))
    assert row.tokens_per_s == pytest.approx(50)
    assert row.ttft_p95_ms == pytest.approx(90, rel=0.3), "the slow one came before"
    assert row.itl_p95_ms is None


def test_an_engine_that_began_anew_counts_from_its_beginning():
    assert engine_row("p", stats("old", 500, 9000), stats("new", 2, 30)).tokens_per_s == pytest.approx(30)


def test_a_single_answer_has_no_rate():
    only = stats("b", 5, 100)
    assert engine_row("p", only, only).tokens_per_s == 0.0


def test_each_further_class_of_a_shared_fleet_has_a_row_of_its_own():
    classes = [
        {"workloadClass": "interactive", "ttftObservedMilliseconds": 430},
        {"workloadClass": "batch", "ttftObservedMilliseconds": 9100},
    ]
    fleet = {
        "metadata": {"namespace": "apps", "name": "shared"},
        "spec": {"slo": {"workloadClass": "interactive", "classes": [{"workloadClass": "batch"}]}},
        "status": {"slo": {"ttftObserved": "430ms", "classes": classes}},
    }
    text = io.StringIO()
    Console(file=text, width=120).print(fleet_table([fleet]))
    rows = [line.split() for line in text.getvalue().splitlines()]
    assert rows[2][:2] == ["apps/shared", "interactive"]
    assert rows[3] == ["batch", "9100", "ms", "-"]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--interval", "0"], "--interval must lie in 0.1 to 3600 s, got 0"),
        (["--interval", "nan"], "--interval must lie in"),
        (["--iterations", "0"], "--iterations must be at least 1, got 0"),
    ],
)
def test_pictures_without_a_pause_or_none_at_all_are_refused(flags: list[str], message: str):
    with pytest.raises(CliError, match=message):
        run(["top", *flags])
