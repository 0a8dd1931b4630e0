"""What `headway plan` prints, on a terminal of 80 columns."""

import math

from headway_cli.plan import tables
from headway_planner.offer import Row, Slack

WHY = "infeasible: p95 TTFT 532 and 498 ms > 400 ms (realtime) with 4 and 6 replicas: take a faster GPU or more TP"
NO_ROOM = Row("H100", 2, "nvlink", 0, WHY, 531.6, 48.5)


def serves(**changes: object) -> Row:
    fields = {"replicas": 4470, "binds": "communication", "ttft_p95_ms": 1234.5, "itl_p95_ms": 123.4}
    return Row(**{"gpu": "H100", "tp": 8, "interconnect": "nvlink", "tokens_per_s": 80000.0, **fields, **changes})


def test_the_table_fits_a_terminal() -> None:
    rows = tables.rows([serves(usd_per_hour=1234.5, usd_per_million=12.345), NO_ROOM])
    assert max(map(len, rows)) <= tables.COLUMNS
    assert rows[1].endswith(" 1234.50   12.345 communication")
    below = rows[rows.index(next(row for row in rows if "531.6" in row)) + 1 :]
    assert " ".join(line.strip() for line in below) == WHY, "all of it, under its row"
    assert all(line.startswith("    ") for line in below)


def test_a_short_reason_stands_in_its_row() -> None:
    _, row = tables.rows([Row("H100", 1, "", 0, "does not fit")])
    assert row.endswith("- does not fit")


def test_columns_without_a_figure_are_left_out() -> None:
    slack = Slack(waiting=0.7, online=0.9, replicas_online=2)
    head, row = tables.rows([serves(slack=slack)])
    assert "USD" not in head
    assert max(len(head), len(row)) <= tables.COLUMNS
    both = tables.rows([serves(slack=slack, usd_per_hour=1234.5, usd_per_million=12.345)])
    assert max(map(len, both)) <= tables.COLUMNS
    assert "USD/Mtok slack binds" in both[0]
    assert "USD/h" not in both[0], "there is no room for it"
    assert "USD/h" in tables.rows([serves(usd_per_hour=1.0, usd_per_million=math.inf)])[0]
