"""How long the work with a deadline has waited, in the few numbers that the status keeps of it."""

from itertools import accumulate, pairwise

from headway_planner.deferred import Backlog

PARTS = 20  # of a deadline


def by_age(backlog: Backlog, deadline_s: float, at_s: float) -> tuple[int, ...]:
    """Requests that are not finished by when they came, one count for each of `PARTS` of a deadline, newest last.

    () when there are none. The first part has the older ones too.
    """
    now = backlog.now
    here = round(now.running + now.waiting) if now is not None else 0
    if now is None or here <= 0:
        return ()
    edges = [at_s - deadline_s * (PARTS - 1 - index) / PARTS for index in range(PARTS - 1)]
    came_by = [max((came for mark_s, came in backlog.marks if mark_s <= edge), default=0.0) for edge in edges]
    left = [min(here, max(0, round(came - now.finished))) for came in came_by]
    return tuple(after - before for before, after in pairwise((0, *left, here)))


def marks_of(counts: tuple[int, ...], deadline_s: float, at_s: float) -> tuple[tuple[float, float], ...]:
    """What a `Backlog` remembers of these counts; `at_s`: when the last part ended."""
    ends = (at_s - deadline_s * (len(counts) - 1 - index) / len(counts) for index in range(len(counts)))
    return tuple(zip(ends, map(float, accumulate(counts)), strict=True))
