"""Causal attention of prompt chunks over the paged cache: all chunks of a step in one launch.

A program takes `Q_TILE` queries of one chunk and one head, and walks over the sequence's keys in the cache, those of
earlier chunks included. Which chunk and which queries is read from a list of tiles on the device; a graph launches it for
the longest list, and programs beyond the end of the list return at once.
"""

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch, stages
from headway_engine.kernels.rope import Tokens

Q_TILE = 128
_LOG2E = 1.4426950408889634


@triton.jit
def _walk(
    q,
    best,
    total,
    acc,
    keys,
    values,
    table,
    query_at,
    first,
    end,
    limit,
    kv_head,
    scale,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    MASKED: tl.constexpr,
):
    element = tl.arange(0, DIM)
    for start in tl.range(first, end, TILE):
        t = start + tl.arange(0, TILE)
        if MASKED:
            block = tl.load(table + t // BLOCK_SIZE, mask=t < limit, other=0)
        else:
            block = tl.load(table + t // BLOCK_SIZE)
        place = ((block * BLOCK_SIZE + t % BLOCK_SIZE) * KV_HEADS + kv_head) * DIM
        # What lies behind the end may be anything, and a weight of zero does not hide a NaN.
        if MASKED:
            k = tl.load(keys + place[:, None] + element[None, :], mask=(t < limit)[:, None], other=0.0)
        else:
            k = tl.load(keys + place[:, None] + element[None, :])
        scores = tl.dot(q, tl.trans(k)) * scale
        if MASKED:
            scores = tl.where(t[None, :] <= query_at[:, None], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        p = tl.exp2(scores - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(p, 1)
        if MASKED:
            v = tl.load(values + place[:, None] + element[None, :], mask=(t < limit)[:, None], other=0.0)
        else:
            v = tl.load(values + place[:, None] + element[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        best = new_best
    return best, total, acc


@triton.jit
def _kernel(
    query,
    keys,
    values,
    tables,
    tiles,
    out,
    query_stride,
    table_stride,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
):
    record = tiles + tl.program_id(0) * 4
    count = tl.load(record + 3).to(tl.int32)  # queries in this tile
    if count == 0:
        return
    head = tl.program_id(1)
    token = tl.load(record)
    start = tl.load(record + 2).to(tl.int32)  # position of the tile's first query
    table = tables + tl.load(record + 1) * table_stride
    kv_head = head // (HEADS // KV_HEADS)
    index = tl.arange(0, QUERIES)
    element = tl.arange(0, DIM)
    real = (index < count)[:, None]
    rows = token + index
    q = tl.load(query + rows[:, None] * query_stride + head * DIM + element[None, :], mask=real, other=0.0)

    query_at = start + index
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, DIM), tl.float32)
    limit = start + count
    # Every query sees the tokens before `start`: whole tiles of them need no mask.
    whole = (start + 1) // TILE * TILE
    best, total, acc = _walk(
        q, best, total, acc, keys, values, table, query_at, 0, whole, limit, kv_head, scale,
        KV_HEADS, DIM, BLOCK_SIZE, TILE, False,
    )  # fmt: skip
    best, total, acc = _walk(
        q, best, total, acc, keys, values, table, query_at, whole, limit, limit, kv_head, scale,
        KV_HEADS, DIM, BLOCK_SIZE, TILE, True,
    )  # fmt: skip
    place = (rows[:, None] * HEADS + head) * DIM + element[None, :]
    tl.store(out + place, (acc / total[:, None]).to(out.dtype.element_ty), mask=real)


def cut_tiles(chunks: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Records of the chunks `(flat index of the first token, row, start, length)`; those with long walks come first."""
    records = [
        (flat + offset, row, start + offset, min(Q_TILE, length - offset))
        for flat, row, start, length in chunks
        for offset in range(0, length, Q_TILE)
    ]
    return sorted(records, key=lambda record: -record[2])


def prefill_attention(
    qkv: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], tokens: Tokens, tiles: torch.Tensor, out: torch.Tensor
) -> None:
    """Attend from each prompt token to its sequence up to itself; keys and values are in the cache.

    Args:
        qkv: `[tokens, heads + 2 * kv_heads, head_dim]`, contiguous; the rotated queries come first.
        cache: the layer's keys and values.
        tokens: block tables.
        tiles: which queries, int64 `[tiles, 4]`: flat index of the first one, row of the block tables, position of the
            first one, how many (0: nothing to do). Only their rows of `out` are written.
        out: `[tokens, heads, head_dim]`, contiguous.
    """
    keys, values = cache
    heads, dim = out.shape[1:]
    line, key_tile = dim * keys.element_size(), 64 if dim <= 128 else 32
    launch(
        _kernel,
        (tiles.shape[0], heads),
        qkv,
        keys,
        values,
        tokens.tables,
        tiles,
        out,
        qkv.stride(0),
        tokens.tables.stride(0),
        _LOG2E / dim**0.5,
        HEADS=heads,
        KV_HEADS=keys.shape[2],
        DIM=dim,
        BLOCK_SIZE=tokens.block_size,
        QUERIES=Q_TILE,
        TILE=key_tile,
        num_warps=8 if dim > 64 else 4,
        num_stages=stages(3, 2 * key_tile * line, beside_bytes=Q_TILE * line),
    )
