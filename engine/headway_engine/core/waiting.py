"""The waiting sequences: one queue per class, first come first served inside it, better classes first.

A preempted sequence goes back to the head of its class. That keeps the order of arrival: whoever ran came before everybody
who still waits in the class, and the scheduler preempts the latest first.
"""

from collections import OrderedDict
from collections.abc import Iterator

from headway_engine.core.request import Priority
from headway_engine.core.sequence import Sequence


class WaitingQueue:
    """Sequences by class and arrival; each operation is O(1), removal from the middle included."""

    __slots__ = ("_classes",)

    def __init__(self) -> None:
        self._classes: tuple[OrderedDict[int, Sequence], ...] = tuple(OrderedDict() for _ in Priority)

    def __len__(self) -> int:
        return sum(map(len, self._classes))

    def __iter__(self) -> Iterator[Sequence]:
        for members in self._classes:
            yield from members.values()

    def push(self, sequence: Sequence) -> None:
        """Add a new arrival behind its class."""
        self._classes[sequence.request.priority][sequence.sequence_id] = sequence

    def push_front(self, sequence: Sequence) -> None:
        """Put a preempted sequence before its class."""
        members = self._classes[sequence.request.priority]
        members[sequence.sequence_id] = sequence
        members.move_to_end(sequence.sequence_id, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is."""
        del self._classes[sequence.request.priority][sequence.sequence_id]

    def head(self) -> Sequence | None:
        """The sequence to serve next."""
        for members in self._classes:
            if members:
                return next(iter(members.values()))
        return None

    def oldest_arrival_s(self) -> float | None:
        """When the sequence that waits longest arrived."""
        return min((next(iter(m.values())).request.arrival_s for m in self._classes if m), default=None)
