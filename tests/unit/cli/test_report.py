from dataclasses import replace

import pytest

from headway_cli.bench.report import Objective, Record, as_json, as_text, percentile, summarize

OBJECTIVE = Objective(ttft_ms=500, tpot_ms=50)


def record(
    arrival_s: float = 0.0, sent_s: float = 0.0, first_s: float | None = 0.1, tokens: int = 11, status: str = "OK"
) -> Record:
    last_s = None if first_s is None else first_s + 0.4
    return Record(arrival_s, sent_s, first_s, last_s, tokens, (40.0,) * (tokens - 1), status)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.95, 10), (0.99, 10), (0.1, 1)])
def test_a_percentile_is_an_observed_value(share: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected
    assert percentile([], share) is None


def test_ttft_counts_from_the_scheduled_arrival_not_from_sending() -> None:
    late = record(arrival_s=1.0, sent_s=1.6, first_s=1.7)
    report = summarize([late], OBJECTIVE)
    assert report.ttft_ms["p50"] == pytest.approx(700)
    assert report.send_lag_ms["p50"] == pytest.approx(600)
    assert report.good_share == 0


def test_tpot_is_the_time_after_the_first_token_per_further_token() -> None:
    assert record(tokens=11).tpot_ms == pytest.approx(40)
    assert record(tokens=1).tpot_ms is None


def test_refused_requests_count_as_not_good_and_leave_the_percentiles_alone() -> None:
    refused = record(first_s=None, tokens=0, status="RESOURCE_EXHAUSTED")
    report = summarize([record(), record(), record(), refused], OBJECTIVE)
    assert report.good_share == 0.75
    assert report.statuses == {"OK": 3, "RESOURCE_EXHAUSTED": 1}
    assert report.ttft_ms["p99"] == pytest.approx(100)


def test_throughput_is_tokens_over_the_time_until_the_last_one() -> None:
    report = summarize([record(), record(first_s=1.6)], OBJECTIVE)
    assert (report.output_tokens, report.wall_s) == (22, 2.0)
    assert report.output_tokens_per_s == pytest.approx(11)


def test_an_empty_test_has_a_report_too() -> None:
    report = summarize([], OBJECTIVE)
    assert "requests     0 (none)" in as_text(report)
    assert as_json(report)["ttft_ms"] == {"p50": None, "p95": None, "p99": None}


def test_what_engines_said_about_failures_is_reported_most_frequent_first() -> None:
    records = [replace(record(), status="ERROR", error=text) for text in ("a", "b", "b")] + [record()]
    report = summarize(records, OBJECTIVE)
    assert list(report.errors.items()) == [("b", 2), ("a", 1)]
    assert "error        2 x b" in as_text(report)
