"""The waiting sequences: one queue per class, in order of arrival inside it, better classes first.

Nobody waits for ever behind better classes: who has waited `AGEING_S` moves up one class, and again after as long. So a
request of the batch class stands among realtime ones, and before those that came later, after twice that time at the latest.
Where batch work waits for slack (`slack`), that holds for one batch request at a time, while no other one runs.
"""

from bisect import insort
from collections.abc import Iterator

from headway_engine.core.request import Priority
from headway_engine.core.sequence import Sequence

AGEING_S = 10.0


def _arrival(sequence: Sequence) -> tuple[float, int]:
    """What another engine gave back arrived earlier than what came here before it."""
    return sequence.request.arrival_s, sequence.sequence_id


class WaitingQueue:
    """Sequences by class and arrival. Few hundred at most (the queue is bounded), so lists are quick enough."""

    __slots__ = ("_classes", "num_batch")

    def __init__(self) -> None:
        self._classes: tuple[list[Sequence], ...] = tuple([] for _ in Priority)
        self.num_batch = 0  # of all: requests of the batch class, those that moved up too

    def __len__(self) -> int:
        return sum(map(len, self._classes))

    def __iter__(self) -> Iterator[Sequence]:
        for members in self._classes:
            yield from members

    def push(self, sequence: Sequence) -> None:
        """Add a new arrival, or one that was preempted, in its place."""
        insort(self._classes[sequence.priority], sequence, key=_arrival)
        self.num_batch += sequence.workload_class is Priority.BATCH

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is."""
        self._classes[sequence.priority].remove(sequence)
        self.num_batch -= sequence.workload_class is Priority.BATCH

    def age(self, now: float, batch: int | None = None) -> None:
        """Move those up that have waited long enough; of the batch class at most `batch`, where that is not None."""
        for members in self._classes[1:]:
            while members and now - members[0].class_since_s >= AGEING_S:
                if batch is not None and members[0].in_slack:
                    if batch == 0:
                        break
                    batch -= 1
                sequence = members[0]
                self.remove(sequence)
                sequence.move_up(now)
                self.push(sequence)

    def head(self) -> Sequence | None:
        """The sequence to serve next."""
        return next((members[0] for members in self._classes if members), None)

    def batch_is_due(self, now: float) -> bool:
        """Whether the batch request that waits longest would move up now."""
        members = self._classes[Priority.BATCH]
        return bool(members) and now - members[0].class_since_s >= AGEING_S

    def has_moved_up_batch(self) -> bool:
        """Whether a batch request waits among better classes."""
        return self.num_batch > len(self._classes[Priority.BATCH])

    def oldest_arrival_s(self) -> float | None:
        """When the sequence that waits longest arrived."""
        return min((members[0].request.arrival_s for members in self._classes if members), default=None)
