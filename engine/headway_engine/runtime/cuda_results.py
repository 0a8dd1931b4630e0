"""Sampled tokens on their way back: the device writes them to a ring, a side stream copies them to pinned memory.

Which slot of the ring a launch writes to follows from a counter on the device, so that a graph can hold the launch; the
host counts along. The compute stream never waits for a copy.
"""

from dataclasses import dataclass

import torch

# Launches whose tokens have not been read: at most three (see `cuda_executor.py`).
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Pending:
    """The tokens of one launch."""

    tokens: torch.Tensor
    copied: torch.cuda.Event

    def wait(self) -> list[int]:
        """The tokens, in the order of the launch; -1 for a row that failed."""
        self.copied.synchronize()
        values: list[int] = self.tokens.tolist()
        return values


class Results:
    """The ring and its copy on the host."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.out = torch.zeros(SLOTS, max_rows, dtype=torch.int64, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self._count = 0
        self._host = torch.zeros(SLOTS, max_rows, dtype=torch.int64, pin_memory=True)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch ships it untyped
        self._sampled = [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]  # torch ships it untyped
        self._copied = [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]  # torch ships it untyped

    def collect(self, rows: int) -> Pending:
        """Call after each launch that counts `step` up: have its tokens copied."""
        self._count += 1
        slot = self._count % SLOTS
        self._sampled[slot].record()
        self._stream.wait_event(self._sampled[slot])
        with torch.cuda.stream(self._stream):
            self._host[slot, :rows].copy_(self.out[slot, :rows], non_blocking=True)
            self._copied[slot].record()
        return Pending(self._host[slot, :rows], self._copied[slot])

    def nothing(self) -> Pending:
        """Call after a launch that draws no tokens: tells when it is done."""
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch ships it untyped
        done.record()
        return Pending(self._host[0, :0], done)

    def skip(self) -> None:
        """A launch counted `step` up, and nobody wants its tokens."""
        self._count += 1

    def resynchronize(self) -> None:
        """After warm-up and capture, or a failure: count from zero again."""
        torch.cuda.synchronize(self.out.device)
        self.step.zero_()
        self._count = 0
