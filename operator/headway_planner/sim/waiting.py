"""The requests of one class in a replica that have no first token yet: those that have begun, and those that wait.

In order of arrival; or, where the engine knows when first tokens are due, as its own queue has it (`headway_engine.core.waiting`):
who has waited for `PATIENCE` of that time lets those go first who have not, but for one in `LATE_TURN` that begin.
"""

import math
from collections import deque

from headway_planner.sim.jobs import Job
from headway_planner.staffing import LATE_TURN, PATIENCE


class Line:
    """`due_s`: after its arrival a request's first token is due; infinite: first come, first served."""

    __slots__ = ("_late", "_passed", "_patience_s", "_timely", "begun")

    def __init__(self, due_s: float) -> None:
        self.begun: list[Job] = []  # they hold slots
        self._timely: deque[Job] = deque()
        self._late: deque[Job] = deque()
        self._patience_s = PATIENCE * due_s
        self._passed = 0  # begun since a late one has that might have

    def __len__(self) -> int:
        return len(self.begun) + len(self._timely) + len(self._late)

    def push(self, job: Job) -> None:
        """One that has just come."""
        self._timely.append(job)

    def put_back(self, job: Job) -> None:
        """One that was preempted waits before all others."""
        self._timely.appendleft(job)

    def part(self, now_s: float) -> None:
        """Tell the late from those that can still be in time. Who has had its first token is not late."""
        timely, place = self._timely, 0
        while place < len(timely) and now_s - timely[place].arrival_s >= self._patience_s:
            if timely[place].first_s >= 0:
                place += 1
                continue
            self._late.append(timely[place])
            del timely[place]

    def head(self) -> Job | None:
        """Who begins next."""
        if self._late and (self._passed >= LATE_TURN - 1 or not self._timely):
            return self._late[0]
        return self._timely[0] if self._timely else None

    def begin(self, job: Job) -> None:
        """The head gets a slot."""
        if self._late and job is self._late[0]:
            self._late.popleft()
            self._passed = 0
        else:
            self._timely.popleft()
            self._passed += bool(self._late)
        self.begun.append(job)
        if self._patience_s < math.inf:
            self.begun.sort(key=_arrival)

    def clear(self) -> list[Job]:
        """Take all out."""
        held = [*self.begun, *self._timely, *self._late]
        self.begun.clear()
        self._timely.clear()
        self._late.clear()
        return held


def _arrival(job: Job) -> int:
    return job.uid
