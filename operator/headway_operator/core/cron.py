"""Five-field cron in a time zone: when does it fire?

Fields are minute, hour, day of month, month and day of week (0 and 7 are Sunday), each `*`, numbers, ranges, steps and
lists of them. As in crontab, a day matches either of the two day fields when both are restricted. Times are local wall
times: one that a clock change skips moves to the first moment after the gap, one that it repeats fires the first time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
CYCLE_START, CYCLE_DAYS = date(2000, 1, 1), 28 * 366  # holds every date on every day of the week
HORIZON_DAYS = 9 * 366  # 29 February is at most 8 years away


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. `either_day`: both day fields are restricted, and one match is enough."""

    times: tuple[time, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def on(self, day: date) -> bool:
        """Whether it fires on this date."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week


@lru_cache(maxsize=1024)
def parse(expression: str) -> Cron:
    """The expression as sets.

    Raises:
        ValueError: it is malformed or never fires; the message names the field and its bounds.
    """
    fields = expression.split()
    if len(fields) != len(RANGES):
        raise ValueError(f"needs 5 fields (minute hour day month weekday), has {len(fields)}: {expression!r}")
    minutes, hours, days, months, weekdays = (
        _field(text, *bounds) for text, bounds in zip(fields, RANGES, strict=True)
    )
    cron = Cron(
        times=tuple(time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)),
        days=days,
        months=months,
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
    )
    if not any(cron.on(CYCLE_START + timedelta(days=number)) for number in range(CYCLE_DAYS)):
        raise ValueError(f"never fires: no month has such a day: {expression!r}")
    return cron


@lru_cache(maxsize=1024)
def shortest_period_s(cron: Cron) -> int:
    """Seconds of wall time between the two closest starts."""
    last: datetime | None = None
    shortest = timedelta(days=CYCLE_DAYS)
    for number in range(CYCLE_DAYS):
        day = CYCLE_START + timedelta(days=number)
        if not cron.on(day):
            continue
        if last is not None:
            shortest = min(shortest, datetime.combine(day, cron.times[0]) - last)
        last = datetime.combine(day, cron.times[-1])
    inside = [_minutes(after) - _minutes(before) for before, after in zip(cron.times, cron.times[1:], strict=False)]
    return min([int(shortest.total_seconds()), *(minutes * 60 for minutes in inside)])


def starts(cron: Cron, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The moments later than `after` at which it fires, in UTC, for nine years."""
    first = after.astimezone(zone).date() - timedelta(days=2)
    last = after
    for number in range(HORIZON_DAYS):
        day = first + timedelta(days=number)
        if not cron.on(day):
            continue
        for at in cron.times:
            moment = _moment(datetime.combine(day, at), zone)
            if moment > last:
                last = moment
                yield moment


def _moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment with this wall time, or the first after the gap that swallows it."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # Inside a gap the two folds are the moment read with the offset before and after: the change lies between.
    low, high = int(wall.replace(tzinfo=zone, fold=1).astimezone(UTC).timestamp()), int(moment.timestamp())
    new_offset = moment.astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == new_offset:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        begin, dash, end = (str(low), "-", str(high)) if span == "*" else span.partition("-")
        numbers = [begin, end if dash else begin, step if slash else "1"]
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(f"{name} {part!r} is not *, a number, a range or a step of one")
        first, last, every = map(int, numbers)
        if slash and not dash:
            last = high
        if not low <= first <= last <= high or every < 1:
            raise ValueError(f"{name} {part!r} must lie in {low} to {high}, with a step of at least 1")
        found.update(range(first, last + 1, every))
    return frozenset(found)


def _minutes(at: time) -> int:
    return at.hour * 60 + at.minute
