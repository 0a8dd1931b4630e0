"""The host's side of the row table (`kernels/rows.py`): which sequence has which row, and what the device holds of it.

Nothing here waits for the device. A chunk is compared with what its row holds once all launches so far are done; what
differs becomes patches, single cells that the next launch writes first. In a run of decodes that is one cell for each
block of tokens. A row is only a copy of what chunks say: it can be taken from a sequence that was not seen lately, and is
filled again when the sequence comes back.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from headway_engine.core.batch import Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.kernels.rows import HEADER, NUM_SAMPLED, POSITION, SEED, TEMPERATURE, TOKEN, TOP_K, TOP_P
from headway_engine.runtime.cuda_staging import Staging


@dataclass(slots=True, eq=False)
class Row:
    """What the device's row will hold when everything launched is done.

    Attributes:
        index: in the table.
        table: the block table.
        position: of the token that the row computes next; -1 when the row does not know that token.
        num_sampled: tokens sampled.
        turn: when it was used last.
    """

    index: int
    table: tuple[int, ...] = ()
    position: int = -1
    num_sampled: int = -1
    turn: int = 0


class RowTable:
    """Rows by sequence id, and the patches of the next launch."""

    def __init__(self, rows: int, max_blocks: int, device: torch.device) -> None:
        """Allocate `rows` rows for sequences and the padding row behind them."""
        self.tensor = torch.zeros(rows + 1, HEADER + max_blocks, dtype=torch.int64, device=device)
        self.padding = rows
        self._width = HEADER + max_blocks
        self._free = list(range(rows))
        self._rows: dict[int, Row] = {}
        self._turn = 0
        self._cells: list[int] = []
        self._values: list[int] = []

    @property
    def block_tables(self) -> torch.Tensor:
        """`[rows, blocks]`, a view."""
        return self.tensor[:, HEADER:]

    def next_turn(self, kept: Iterable[int]) -> None:
        """A batch begins: rows that it does not use may be given away.

        Args:
            kept: sequences of it that were launched already; what their rows hold may be known to the device alone.
        """
        self._turn += 1
        for sequence_id in kept:
            self._rows[sequence_id].turn = self._turn

    def of(self, chunk: Chunk) -> Row:
        """The chunk's row, with its blocks and its way of sampling."""
        row = self._rows.get(chunk.sequence_id)
        if row is None:
            row = self._rows[chunk.sequence_id] = Row(self._take())
            self._patch_sampling(row, chunk.sampling, chunk.seed)
        row.turn = self._turn
        if row.table is not chunk.block_table:
            self._patch_table(row, chunk.block_table)
        return row

    def patch_count(self, row: Row, chunk: Chunk) -> None:
        """Have the row's random numbers go on at the chunk's."""
        if row.num_sampled != chunk.num_sampled:
            row.num_sampled = chunk.num_sampled
            self._patch(row.index * self._width + NUM_SAMPLED, chunk.num_sampled)

    def patch_token(self, row: Row, chunk: Chunk) -> None:
        """Have the row compute the chunk's only token next."""
        if row.position != chunk.start:
            row.position = chunk.start
            base = row.index * self._width
            self._patch(base + TOKEN, chunk.token_ids[0])
            self._patch(base + POSITION, chunk.start)

    @property
    def num_patches(self) -> int:
        """Cells to be patched before the next launch."""
        return len(self._cells)

    def take_patches(self) -> tuple[list[int], list[int]]:
        """Those cells (flat), each once, and their values; the launch has to write them."""
        patches = self._cells, self._values
        self._cells, self._values = [], []
        return patches

    def write_patches(self, staging: Staging) -> None:
        """Write them, for a launch that does not."""
        cells, values = self.take_patches()
        if cells:
            patches = staging.upload(cells, values).view(2, -1)
            self.tensor.view(-1).index_copy_(0, patches[0], patches[1])

    def forget(self) -> None:
        """A launch failed: nothing is known of the device."""
        self._free += [row.index for row in self._rows.values()]
        self._rows.clear()
        self._cells, self._values = [], []

    def _take(self) -> int:
        if not self._free:
            old = [sequence_id for sequence_id, row in self._rows.items() if row.turn < self._turn]
            self._free += [self._rows.pop(sequence_id).index for sequence_id in old]
        return self._free.pop()

    def _patch(self, cell: int, value: int) -> None:
        self._cells.append(cell)
        self._values.append(value)

    def _patch_sampling(self, row: Row, sampling: SamplingParams, seed: int) -> None:
        base = row.index * self._width
        self._patch(base + SEED, signed_seed(seed))
        self._patch(base + TEMPERATURE, float_bits(sampling.temperature))
        self._patch(base + TOP_P, float_bits(sampling.top_p))
        self._patch(base + TOP_K, sampling.top_k)

    def _patch_table(self, row: Row, table: tuple[int, ...]) -> None:
        known = len(row.table)
        if table[:known] != row.table:
            known = 0
        first = row.index * self._width + HEADER
        self._cells.extend(range(first + known, first + len(table)))
        self._values.extend(table[known:])
        row.table = table


def signed_seed(seed: int) -> int:
    """The lower 64 bits as the signed column holds them; the kernel reads them as unsigned."""
    low = seed & ((1 << 64) - 1)
    return low - (1 << 64) if low >> 63 else low


def float_bits(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.int32))
