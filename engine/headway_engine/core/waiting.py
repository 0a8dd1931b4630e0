"""The waiting sequences: better classes first, inside a class those whose first token can still be in time, in order of arrival.

A request is late when it has waited for `PATIENCE` of its class's TTFT target (`Limits.due_ms`): beside the work in front of
it, little of the target is left. In an overload everybody becomes late where the first to come is the first to be served.
So who is late lets those of its class go first who are not. One in `LATE_TURN` that are served is late all the same, the one
that has waited longest, and as soon as nobody of its class waits in time all are. A request that has its first token is never
late again. Without targets the order is that of arrival.

Nobody waits for ever behind better classes: who has waited `AGEING_S` moves up one class, and again after as long. So a
request of the batch class stands among realtime ones, and before those that came later, after twice that time at the latest.
Where batch work waits for slack (`slack`), that holds for one batch request at a time, while no other one runs. A late request
that has moved up has its turn among the better ones too, and goes before nobody else: without that, a fleet of one class would
serve what has waited for ten seconds before all that can still be in time.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator

from headway_engine.core.limits import Limits
from headway_engine.core.request import Priority
from headway_engine.core.sequence import Sequence

AGEING_S = 10.0
PATIENCE = 0.75
LATE_TURN = 4


def _arrival(sequence: Sequence) -> tuple[float, int]:
    """What another engine gave back arrived earlier than what came here before it."""
    return sequence.request.arrival_s, sequence.sequence_id


def _now_late(timely: list[Sequence], due_s: list[float], now: float) -> list[Sequence]:
    """Those of a list that have become late."""
    late, least_s = [], min(due_s)
    for sequence in timely:
        waited_s = now - sequence.request.arrival_s
        if waited_s < least_s:
            break
        if waited_s >= due_s[sequence.workload_class]:
            late.append(sequence)
    return late


class WaitingQueue:
    """Sequences by class and arrival. Few hundred at most (the queue is bounded), so lists are quick enough."""

    __slots__ = ("_late", "_passed", "_timely", "num_batch")

    def __init__(self) -> None:
        self._timely: tuple[list[Sequence], ...] = tuple([] for _ in Priority)  # by the class that they are served as
        self._late: tuple[list[Sequence], ...] = tuple([] for _ in Priority)  # by their own class
        self._passed = 0  # served since a late one was that might have been
        self.num_batch = 0  # of all: requests of the batch class, those that moved up too

    def __len__(self) -> int:
        return sum(map(len, self._timely)) + sum(map(len, self._late))

    def __iter__(self) -> Iterator[Sequence]:
        for timely, late in zip(self._timely, self._late, strict=True):
            yield from timely
            yield from late

    def push(self, sequence: Sequence) -> None:
        """Add a new arrival, or one that was preempted, in its place."""
        sequence.late &= sequence.first_token_s is None
        insort(self._members(sequence), sequence, key=_arrival)
        self.num_batch += sequence.workload_class is Priority.BATCH

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is."""
        self._members(sequence).remove(sequence)
        self.num_batch -= sequence.workload_class is Priority.BATCH

    def serve(self, sequence: Sequence) -> None:
        """Take out a sequence because it runs from now on."""
        self.remove(sequence)
        if sequence.late:
            self._passed = 0
        elif self._next_late(sequence.priority) is not None:
            self._passed += 1

    def age(self, now: float, batch: int | None = None) -> None:
        """Move those up that have waited long enough; of the batch class at most `batch`, where that is not None."""
        for members in self._timely[1:]:
            while members and now - members[0].class_since_s >= AGEING_S:
                if batch is not None and members[0].in_slack:
                    if batch == 0:
                        break
                    batch -= 1
                sequence = members[0]
                self.remove(sequence)
                sequence.move_up(now)
                self.push(sequence)
        for sequence in self._late[Priority.INTERACTIVE]:
            if now - sequence.request.arrival_s < AGEING_S:
                break
            if sequence.priority is Priority.INTERACTIVE and now - sequence.class_since_s >= AGEING_S:
                sequence.move_up(now)

    def part(self, now: float, limits: Limits) -> None:
        """Tell the late from those that can still be in time."""
        if not self:
            return
        due_s = [PATIENCE * limits.due_ms(kind) / 1000 for kind in Priority]
        for timely, late in zip(self._timely, self._late, strict=True):
            if math.isinf(min(due_s)):
                self._place(tuple(late), late=False)
            else:
                self._place(_now_late(timely, due_s, now), late=True)

    def head(self) -> Sequence | None:
        """The sequence to serve next."""
        for kind, timely, late in zip(Priority, self._timely, self._late, strict=True):
            if timely:
                turn = self._next_late(kind) if self._passed >= LATE_TURN - 1 else None
                return turn or timely[0]
            if late:
                return late[0]
        return None

    def batch_is_due(self, now: float) -> bool:
        """Whether the batch request that waits longest would move up now."""
        members = self._timely[Priority.BATCH]
        return bool(members) and now - members[0].class_since_s >= AGEING_S

    def has_moved_up_batch(self) -> bool:
        """Whether a batch request waits among better classes."""
        return self.num_batch > len(self._timely[Priority.BATCH])

    def oldest_arrival_s(self) -> float | None:
        """When the sequence that waits longest arrived."""
        return min((members[0].request.arrival_s for members in (*self._timely, *self._late) if members), default=None)

    def _members(self, sequence: Sequence) -> list[Sequence]:
        return self._late[sequence.workload_class] if sequence.late else self._timely[sequence.priority]

    def _next_late(self, kind: Priority) -> Sequence | None:
        """The late one whose turn may come among those that are served as this class, or as a better one."""
        return next((late[0] for late in self._late if late and late[0].priority <= kind), None)

    def _place(self, sequences: Iterable[Sequence], *, late: bool) -> None:
        for sequence in sequences:
            self.remove(sequence)
            sequence.late = late
            self.push(sequence)
