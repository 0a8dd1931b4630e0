"""The row table: what the device knows of each sequence, so that the next decode step needs nothing from the host.

One int64 row per sequence: a header of `HEADER` columns and the block table behind it.

    TOKEN        the token sampled last; the next step computes it
    POSITION     its position
    NUM_SAMPLED  tokens sampled so far, for the random number
    SEED, TEMPERATURE, TOP_P, TOP_K   how to sample; the two floats as their float32 bits

A decode step reads token and position here (`embed_rows`), and sampling writes them back (`kernels/sampling.py`). The last
row is nobody's: the padding rows of a graph point at it, its blocks are block 0, and nothing in it ever changes.
"""

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

TOKEN, POSITION, NUM_SAMPLED, SEED, TEMPERATURE, TOP_P, TOP_K = range(7)
HEADER = 8
# The flat index of a cell in the last column of the header, which nobody reads.
IDLE_CELL = HEADER - 1


@triton.jit
def _embed_kernel(table, stride, row_ids, embedding, h, positions, step, size, BLOCK: tl.constexpr):
    let_next_start()
    wait_for_previous()
    index = tl.program_id(0)
    row = tl.load(row_ids + index)
    token = tl.load(table + row * stride)
    tl.store(positions + index, tl.load(table + row * stride + 1))
    if index == 0:
        tl.store(step, tl.load(step) + 1)
    for first in tl.range(0, size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < size
        value = tl.load(embedding + token * size + column, mask=inside, other=0.0)
        tl.store(h + index.to(tl.int64) * size + column, value, mask=inside)


def embed_rows(
    table: torch.Tensor,
    row_ids: torch.Tensor,
    embedding: torch.Tensor,
    positions: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """Embeddings `[rows, hidden]` of the tokens that these rows compute next; counts a step.

    Args:
        table: the row table.
        row_ids: int64 `[rows]`.
        embedding: `[vocabulary, hidden]`.
        positions: int64 `[rows]`, written: the positions of the tokens.
        step: int64 `[1]`, counted up.
    """
    count, size = row_ids.shape[0], embedding.shape[1]
    h = embedding.new_empty(count, size)
    block = min(1024, triton.next_power_of_2(size))
    launch(
        _embed_kernel,
        (count,),
        table,
        table.stride(0),
        row_ids,
        embedding,
        h,
        positions,
        step,
        size,
        BLOCK=block,
        num_warps=4,
        **LAUNCH,
    )
    return h
