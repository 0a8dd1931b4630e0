"""When requests in flight end by themselves, earliest first."""

import heapq

from headway_engine.core.sequence import Phase, Sequence


class Deadlines:
    """A heap that forgets: entries of ended requests are dropped when they come up, or when they are the most."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, sequence: Sequence) -> None:
        """Watch a sequence, if its request has a deadline."""
        if sequence.request.deadline_s is not None:
            heapq.heappush(self._heap, (sequence.request.deadline_s, sequence.sequence_id, sequence))

    def next_s(self) -> float | None:
        """The earliest, of an ended request perhaps."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[Sequence]:
        """Take out those whose time has come; the sequences among them that have not ended."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[-1])
        return [sequence for sequence in due if sequence.phase is not Phase.ENDED]

    def tidy(self, in_flight: int) -> None:
        """Drop the entries of ended sequences once they are the most, so that long deadlines do not pile up."""
        if len(self._heap) > 64 and len(self._heap) > 2 * in_flight:
            self._heap = [entry for entry in self._heap if entry[-1].phase is not Phase.ENDED]
            heapq.heapify(self._heap)
