"""Tokens that the sequences of a scheduler have yet to prefill, and the part of them that is batch work."""

from dataclasses import dataclass

from headway_engine.core.request import Priority
from headway_engine.core.sequence import Sequence


@dataclass(slots=True)
class Backlog:
    """The sums; `batch` is part of `tokens`."""

    tokens: int = 0
    batch: int = 0

    def add(self, sequence: Sequence, tokens: int) -> None:
        """Count tokens of a sequence; fewer than 0 are computed, or gone with it."""
        self.tokens += tokens
        if sequence.workload_class is Priority.BATCH:
            self.batch += tokens
