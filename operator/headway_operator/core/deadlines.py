"""The work with a deadline as users see it: how much waits, when it is done at this size, and what was late.

An engine works off one second of work a second, less what the other classes need of it. What is in one engine stays there,
so all is done when the fullest of them has done its part. Late requests are those that the engines counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headway_operator.core.observed import EngineSample
from headway_planner.coordinator import Memory
from headway_planner.deferred import Asked, spare_s
from headway_planner.staffing import UTILIZATION

RECENT_S = 60  # of the other classes' demand


@dataclass(frozen=True, slots=True)
class Outlook:
    """The work with a deadline now.

    Attributes:
        deadline_s: in which a request should be finished, from its arrival at an engine.
        waiting: requests that are not.
        done_s: in which all of them are at this size; infinite when the others leave nothing free, None: not known.
        spare_s: how long before its deadline the tightest of them is done; below 0: late by so much. None: as `done_s`.
        replicas: that the deadline asks for, together with the other classes; None: not known.
        finished, late: requests that ended in the window of the objective, and those of them after their deadline.
    """

    deadline_s: float
    waiting: int
    done_s: float | None = None
    spare_s: float | None = None
    replicas: int | None = None
    finished: int = 0
    late: int = 0

    @property
    def will_be_late(self) -> bool:
        """Whether some of what is here misses its deadline at this size."""
        return self.spare_s is not None and self.spare_s < 0


@dataclass(frozen=True, slots=True)
class Windows:
    """First and newest sample of engines in the objective's window. `share`: engines that each one stands for."""

    ends: Sequence[tuple[EngineSample, EngineSample]]
    share: float = 1.0


def outlook(deadline_s: float, seen: Windows, asked: Asked | None, memory: Memory) -> Outlook:
    """The outlook of a pass."""
    parts = [max(0, last.batch.admitted - last.batch.finished) for _, last in seen.ends]
    ended = [_ended(first, last) for first, last in seen.ends]
    here, finished, late = (
        round(seen.share * sum(column))
        for column in (parts, (all_of for all_of, _ in ended), (late for _, late in ended))
    )
    if asked is None or memory.last is None:
        return Outlook(deadline_s, here, finished=finished, late=late)
    done_s = 0.0
    if here:
        recent = memory.work[-RECENT_S:]
        online = sum(recent) / len(recent) / (seen.share * len(parts)) if recent else 0.0
        free = UTILIZATION - online
        done_s = asked.left_s * max(parts) / here / free if free > 0 else math.inf
    spare = spare_s(memory.backlog, memory.last.at_s, deadline_s, done_s)
    return Outlook(deadline_s, here, done_s, spare, asked.replicas, finished, late)


def _ended(first: EngineSample, last: EngineSample) -> tuple[int, int]:
    """Requests with a deadline that ended in an engine between two samples, and those that did after it."""
    if first.boot_id != last.boot_id:
        return last.batch.finished, last.batch.late
    return last.batch.finished - first.batch.finished, last.batch.late - first.batch.late
