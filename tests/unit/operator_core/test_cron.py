"""When a cron expression fires, against brute force and across clock changes."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_operator.core.cron import parse, shortest_period_s, starts

BERLIN = ZoneInfo("Europe/Berlin")


def first(expression: str, after: datetime, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    return [f"{moment:%m-%d %H:%M}" for moment in islice(starts(parse(expression), zone, after), count)]


def test_a_start_that_the_spring_change_skips_moves_to_the_first_moment_after_the_gap() -> None:
    assert first("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == ["03-29 01:00", "03-30 00:30"]
    assert first("*/15 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == ["03-29 01:00", "03-30 00:00"]


def test_a_start_that_the_autumn_change_repeats_fires_the_first_time_only() -> None:
    assert first("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == ["10-25 00:30", "10-26 01:30"]


def test_local_times_keep_their_hour_across_the_change() -> None:
    assert first("0 22 * * *", datetime(2026, 3, 28, 0, tzinfo=UTC), 2) == ["03-28 21:00", "03-29 20:00"]


def test_either_day_field_is_enough_when_both_are_restricted() -> None:
    assert first("0 0 13 * 5", datetime(2026, 2, 1, tzinfo=UTC), 3, ZoneInfo("UTC")) == [
        "02-06 00:00",
        "02-13 00:00",
        "02-20 00:00",
    ]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 22 * *", "needs 5 fields .* has 4"),
        ("60 0 * * *", "minute '60' must lie in 0 to 59"),
        ("0 5-2 * * *", "hour '5-2' must lie in 0 to 23"),
        ("*/0 * * * *", "step of at least 1"),
        ("a * * * *", "minute 'a' is not"),
        ("0 0 * * 8", "day of week '8' must lie in 0 to 7"),
        ("@daily", "needs 5 fields"),
    ],
)
def test_what_cannot_fire_or_is_malformed_is_refused_in_words(expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(expression)


@pytest.mark.parametrize(
    ("expression", "period_s"),
    [("0 22 * * *", 86400), ("0 22,23 * * *", 3600), ("0 0 * * 1", 604800), ("*/20 * * * *", 1200)],
)
def test_shortest_period(expression: str, period_s: int) -> None:
    assert shortest_period_s(parse(expression)) == period_s


@given(
    minute=st.integers(0, 59),
    hours=st.sets(st.integers(0, 23), min_size=1, max_size=4),
    weekdays=st.sets(st.integers(0, 6), min_size=1),
    begin=st.integers(0, 700),
)
def test_starts_are_those_that_brute_force_over_every_minute_finds(
    minute: int, hours: set[int], weekdays: set[int], begin: int
) -> None:
    """In a zone without clock changes, every minute of four days."""
    zone = ZoneInfo("Asia/Kolkata")
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=begin)
    minutes = (after + timedelta(minutes=number) for number in range(1, 4 * 1440))
    local = ((moment, moment.astimezone(zone)) for moment in minutes)
    wanted = [m for m, at in local if at.minute == minute and at.hour in hours and at.isoweekday() % 7 in weekdays]
    text = f"{minute} {','.join(map(str, hours))} * * {','.join(map(str, weekdays))}"
    end = after + timedelta(minutes=4 * 1440 - 1)
    assert [m for m in islice(starts(parse(text), zone, after), 20) if m <= end] == wanted
