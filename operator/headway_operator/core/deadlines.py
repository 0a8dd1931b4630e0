"""The work with a deadline as users see it: how much waits, when it is done at this size, and what was late.

An engine works off one second of work a second, less what the other classes need of it. All is done when the fullest of them
has done its part. What is in one engine is taken to stay there, unless a gateway has moved requests of these engines: then what
waits is shared by all, and only what runs stays. Late requests are those that the engines counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from headway_operator.api.v1alpha1 import DeadlineStatus
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


@dataclass(frozen=True)
class Windows:
    """First and newest sample of engines in the objective's window. `share`: engines that each one stands for."""

    ends: Sequence[tuple[EngineSample, EngineSample]]
    share: float = 1.0

    @cached_property
    def here(self) -> list[int]:
        """Per engine, the requests with a deadline that are not finished."""
        return [last.batch.here for _, last in self.ends]

    @property
    def fullest(self) -> float:
        """Requests that the fullest engine will have to do."""
        if not any(last.batch.moved for _, last in self.ends):
            return max(self.here)
        runs = max(max(0, last.batch.here - last.num_waiting_batch) for _, last in self.ends)
        return max(runs, sum(self.here) / len(self.here))


def counted(deadline_s: float, seen: Windows) -> Outlook:
    """What the engines count themselves: no prediction."""
    ended = [_ended(first, last) for first, last in seen.ends]
    here, finished, late = (
        round(seen.share * sum(column))
        for column in (seen.here, (all_of for all_of, _ in ended), (late for _, late in ended))
    )
    return Outlook(deadline_s, here, finished=finished, late=late)


def outlook(deadline_s: float, seen: Windows, asked: Asked | None, memory: Memory) -> Outlook:
    """The outlook of a pass."""
    found = counted(deadline_s, seen)
    if asked is None or memory.last is None:
        return found
    done_s = 0.0
    if found.waiting:
        recent = memory.work[-RECENT_S:]
        online = sum(recent) / len(recent) / (seen.share * len(seen.here)) if recent else 0.0
        free = UTILIZATION - online
        done_s = asked.left_s * seen.fullest / found.waiting / free if free > 0 else math.inf
    spare = spare_s(memory.backlog, memory.last.at_s, deadline_s, done_s)
    return replace(found, done_s=done_s, spare_s=spare, replicas=asked.replicas)


def foretold(found: Outlook, said: DeadlineStatus | None) -> Outlook:
    """What was counted outside of the operator, with its prediction: only it knows the ages of what waits, and what that costs."""
    if said is None or said.needed_replicas is None or said.seconds != found.deadline_s or not found.waiting:
        return found
    # The status has no word for "never": the need is known, the end is not.
    never = said.done_in_seconds is None
    return replace(
        found,
        done_s=math.inf if never else said.done_in_seconds,
        spare_s=-math.inf if never else said.spare_seconds,
        replicas=said.needed_replicas,
    )


def _ended(first: EngineSample, last: EngineSample) -> tuple[int, int]:
    """Requests with a deadline that ended in an engine between two samples, and those that did after it."""
    then, now = first.batch, last.batch
    if first.boot_id != last.boot_id:
        return now.finished, now.late
    return now.finished - then.finished, now.late - then.late
