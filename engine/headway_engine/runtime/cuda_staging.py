"""Copies of small integer arrays to the device that neither wait for it nor are waited for.

The source is pinned memory, in a ring. A slot comes around again after `SLOTS` copies; an executor makes a handful per batch
and waits for the results of each batch before the next but one begins, so by then its copy is long done.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

SLOTS = 32


class Staging:
    """A ring of pinned buffers."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """Hold up to `capacity` int64 values per copy."""
        self._device = device
        self._slots = [torch.empty(capacity, dtype=torch.int64, pin_memory=True) for _ in range(SLOTS)]
        self._views = [slot.numpy() for slot in self._slots]
        self._next = 0

    def upload(self, *parts: Sequence[int] | npt.NDArray[np.int64], into: torch.Tensor | None = None) -> torch.Tensor:
        """The parts one behind the other on the device; in a new tensor, or in the first elements of `into`."""
        slot = self._next
        self._next = (slot + 1) % SLOTS
        view, length = self._views[slot], 0
        total = sum(map(len, parts))
        if total > len(view):
            self._slots[slot] = torch.empty(total, dtype=torch.int64, pin_memory=True)
            view = self._views[slot] = self._slots[slot].numpy()
        for part in parts:
            view[length : length + len(part)] = part
            length += len(part)
        if into is None:
            into = torch.empty(length, dtype=torch.int64, device=self._device)
        return into[:length].copy_(self._slots[slot][:length], non_blocking=True)
