"""Ages of what the API holds, on a clock that does not jump.

The API's times are wall-clock times, and the wall clock may be set back or forward at any moment. So the age of a time is
measured once, when it is first seen, and from then on it grows with the monotonic clock. A time in the future counts as now.
In a process that has passed before, a new time cannot be older than that pass: the operator itself wrote it since.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

SLACK_S = 2.0  # whole seconds on one side, and the write on the other


def placed(
    stamps: Iterable[datetime],
    known: Mapping[datetime, float],
    now: datetime,
    monotonic_s: float,
    passed_s: float | None,
) -> dict[datetime, float]:
    """When each time was on the monotonic clock.

    Args:
        stamps: times that the API holds.
        known: those of the pass before.
        now: the wall clock.
        monotonic_s: the other clock, at the same moment.
        passed_s: when the pass before was; None: there was none.
    """
    oldest_s = -float("inf") if passed_s is None else passed_s - SLACK_S
    found = {}
    for stamp in stamps:
        at_s = known.get(stamp)
        if at_s is None:
            at_s = max(oldest_s, monotonic_s - max(0.0, (now - stamp).total_seconds()))
        found[stamp] = at_s
    return found
