"""A step with prompt chunks as one packed int64 array, so that one copy brings everything to the device.

    patches of the row table: cells | values | token ids | positions | rows | sampled: index among the tokens | sampled: row |
    decodes | tiles of prefill attention

A graph needs the same sizes each time, filled up with patches of an idle cell, tokens of the padding row and empty tiles.

Each part begins at a multiple of 16 bytes. Triton compiles a kernel anew for a pointer that does not, and a step that has to
wait for its compiler holds every stream up for a second or two.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from headway_engine.core.batch import Chunk
from headway_engine.kernels.decoder import WholePrompt
from headway_engine.kernels.prefill_attention import Q_TILE, cut_tiles
from headway_engine.kernels.rows import IDLE_CELL

Ints = npt.NDArray[np.int64]
# Cells of the row table, flat, and what they shall hold.
Patches = tuple[Sequence[int], Sequence[int]]

# Lengths of prompts for the library's attention. From the first one on it is ahead of the paged kernel, twice as fast at the
# end; but it makes a plan for each length that it has not seen, which takes 45 ms. So prompts are padded to these lengths,
# whose plans are made before the first request.
WHOLE_LENGTHS: tuple[int, ...] = (*range(1024, 4096, 128), *range(4096, 8192, 256), *range(8192, 32768 + 1, 1024))
_SHORTEST_WHOLE = WHOLE_LENGTHS[0] - 127


def planned_lengths(longest: int) -> tuple[int, ...]:
    """Those of `WHOLE_LENGTHS` that a step of up to `longest` tokens may take."""
    return WHOLE_LENGTHS[: bisect_left(WHOLE_LENGTHS, longest) + 1] if longest >= _SHORTEST_WHOLE else ()


def whole_length(tokens: int) -> int | None:
    """What a whole prompt of this length is padded to; None when the paged kernel takes it."""
    if not _SHORTEST_WHOLE <= tokens <= WHOLE_LENGTHS[-1]:
        return None
    return WHOLE_LENGTHS[bisect_left(WHOLE_LENGTHS, tokens)]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a packed step.

    Attributes:
        tokens: of all chunks.
        sampled: chunks that sample.
        tiles: of prefill attention.
        patches: of the row table.
    """

    tokens: int
    sampled: int
    tiles: int
    patches: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """Elements of each part."""
        new, many, few = _room(self.patches), _room(self.tokens), _room(self.sampled)
        return new, new, many, many, many, few, few, _room(1), 4 * self.tiles


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Views of the packed array on the device; see the module's docstring."""

    cells: torch.Tensor
    values: torch.Tensor
    token_ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    sampled_flat: torch.Tensor
    sampled_rows: torch.Tensor
    decodes: torch.Tensor
    tiles: torch.Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """A step on the host.

    Attributes:
        parts: the arrays from the token ids on.
        shape: their sizes, without patches.
        num_decodes: leading tokens for decode attention; of a graph, those that it has room for.
        whole: chunks for the library's attention.
    """

    parts: tuple[Ints, ...]
    shape: Shape
    num_decodes: int
    whole: tuple[WholePrompt, ...]


def pack(chunks: Sequence[Chunk], rows: Sequence[int], num_decodes: int, allow_whole: bool) -> Packed:
    """Flatten chunks.

    Args:
        chunks: decodes first.
        rows: row of each chunk.
        num_decodes: leading one-token chunks that decode attention takes.
        allow_whole: the beginnings of long prompts may be left to the library's attention.
    """
    lengths = np.array([len(chunk.token_ids) for chunk in chunks])
    starts = np.array([chunk.start for chunk in chunks])
    ends = np.cumsum(lengths)
    flat = np.arange(ends[-1])
    positions = flat - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)
    token_ids = np.concatenate([np.asarray(chunk.token_ids, dtype=np.int64) for chunk in chunks])
    samples = np.array([chunk.sample for chunk in chunks])
    row_of = np.array(rows)
    whole, tiled = [], []
    for index in range(num_decodes, len(chunks)):
        start, length = int(starts[index]), int(lengths[index])
        flat_start = int(ends[index]) - length
        if allow_whole and start == 0 and (padded := whole_length(length)) is not None:
            whole.append(WholePrompt(flat_start, flat_start + length, padded))
        else:
            tiled.append((flat_start, rows[index], start, length))
    tiles = np.array(cut_tiles(tiled), dtype=np.int64).reshape(-1, 4)
    shape = Shape(len(flat), int(samples.sum()), len(tiles))
    parts = (
        token_ids,
        positions,
        np.repeat(row_of, lengths),
        (ends - 1)[samples],
        row_of[samples],
        np.array([num_decodes]),
        tiles.reshape(-1),
    )
    return Packed(parts, shape, num_decodes, tuple(whole))


def laid_out(packed: Packed, patches: Patches, shape: Shape, padding_row: int) -> Ints:
    """The step as one array, in sizes that it fits into: its own, or a graph's.

    Args:
        packed: the step.
        patches: what is written to the row table before it.
        shape: the sizes; what is not filled are patches of a cell that nobody reads, tokens of the padding row, and empty tiles.
        padding_row: nobody's.
    """
    parts: tuple[Sequence[int] | Ints, ...] = (*patches, *packed.parts)
    starts = list(accumulate(shape.lengths, initial=0))
    array = np.zeros(starts[-1], dtype=np.int64)
    array[: starts[1]] = IDLE_CELL
    array[starts[4] : starts[5]] = array[starts[6] : starts[7]] = padding_row
    for start, part in zip(starts[:-1], parts, strict=True):
        array[start : start + len(part)] = part
    return array


def unpack(array: torch.Tensor, shape: Shape) -> Unpacked:
    """Views of an array of these sizes."""
    n, s = shape.tokens, shape.sampled
    cells, values, token_ids, positions, rows, flat, sampled_rows, decodes, tiles = array.split(shape.lengths)  # type: ignore[no-untyped-call]  # torch ships it untyped
    return Unpacked(
        cells,
        values,
        token_ids[:n],
        positions[:n],
        rows[:n],
        flat[:s],
        sampled_rows[:s],
        decodes[:1],
        tiles.view(-1, 4),
    )


def _room(count: int) -> int:
    """Elements that a part of `count` takes: the next one begins aligned."""
    return count + count % 2


def cut_at(most: int, sizes: Sequence[int]) -> list[int]:
    """Those of the ascending `sizes` that are of use for up to `most`, which is the last one where the next is beyond it."""
    return sorted({min(size, most) for size in sizes})


def graph_shape(tokens: int, max_chunks: int, decodes: int = 0) -> Shape:
    """Sizes that hold any step of so many tokens, of them up to this many decodes and the others in chunks; all sampled."""
    return Shape(tokens, min(tokens, decodes + max_chunks), tokens // Q_TILE + max_chunks)
