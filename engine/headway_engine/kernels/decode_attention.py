"""Attention of one new token per sequence over its paged context, split along the context.

    programs     (sequence, kv head, split); a split is a run of `chunk` tokens of the context
    chunk        the context over the number of splits it is worth, a multiple of the tile
    combination  a second kernel weighs the splits' results; a context of one split is written at once and skipped there

The query heads that share a KV head are the rows of one small matrix, so each key and value is read once. The number of
splits launched is fixed, so that a graph can hold the launch; how many of them work follows from the context on the device.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch, stages
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous
from headway_engine.kernels.rope import Tokens

_LEAST_TILE = 16
# What one warp adds up in its registers.
_WARP_ELEMENTS = 4096
_LOG2E = 1.4426950408889634


@triton.jit
def _chunk_of(context, num_splits, min_chunk, TILE: tl.constexpr):
    wanted = tl.maximum(tl.minimum(num_splits, tl.cdiv(context, min_chunk)), 1)
    return tl.cdiv(tl.cdiv(context, wanted), TILE) * TILE


@triton.jit
def _context_of(token, positions, decodes, COUNTED: tl.constexpr):
    """Tokens to attend to; none for a token that is no decode."""
    context = (tl.load(positions + token) + 1).to(tl.int32)
    if COUNTED:
        context = tl.where(token < tl.load(decodes), context, 0)
    return context


@triton.jit(do_not_specialize=["num_splits", "min_chunk"])
def _split_kernel(
    query,
    keys,
    values,
    positions,
    decodes,
    rows,
    tables,
    out,
    partial,
    weights,
    query_stride,
    table_stride,
    scale,
    num_splits,
    min_chunk,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    TILE: tl.constexpr,
    COUNTED: tl.constexpr,
):
    let_next_start()
    wait_for_previous()
    # KV heads first: those of one token lie side by side in the cache, so their programs read neighbouring memory.
    kv_head = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    context = _context_of(token, positions, decodes, COUNTED)
    chunk = _chunk_of(context, num_splits, min_chunk, TILE)
    start = split * chunk
    if start >= context:
        return
    end = tl.minimum(start + chunk, context)
    table = tables + tl.load(rows + token) * table_stride
    GROUP: tl.constexpr = HEADS // KV_HEADS
    member = tl.arange(0, GROUP_TILE)
    element = tl.arange(0, DIM)
    head = kv_head * GROUP + member
    real = (member < GROUP)[:, None]
    q = tl.load(query + token * query_stride + head[:, None] * DIM + element[None, :], mask=real, other=0.0)

    best = tl.full((GROUP_TILE,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_TILE,), tl.float32)
    acc = tl.zeros((GROUP_TILE, DIM), tl.float32)
    for first in tl.range(start, end, TILE):
        t = first + tl.arange(0, TILE)
        inside = t < end
        block = tl.load(table + t // BLOCK_SIZE, mask=inside, other=0)
        place = ((block * BLOCK_SIZE + t % BLOCK_SIZE) * KV_HEADS + kv_head) * DIM
        k = tl.load(keys + place[:, None] + element[None, :], mask=inside[:, None], other=0.0)
        v = tl.load(values + place[:, None] + element[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        p = tl.exp2(scores - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)
        best = new_best

    if chunk >= context:
        place_out = (token * HEADS + head[:, None]) * DIM + element[None, :]
        tl.store(out + place_out, (acc / total[:, None]).to(out.dtype.element_ty), mask=real)
    else:
        part = (token * HEADS + head) * num_splits + split
        tl.store(partial + part[:, None] * DIM + element[None, :], acc / total[:, None], mask=real)
        tl.store(weights + part, best + tl.log2(total), mask=member < GROUP)


@triton.jit(do_not_specialize=["num_splits", "min_chunk"])
def _combine_kernel(
    positions,
    decodes,
    out,
    partial,
    weights,
    num_splits,
    min_chunk,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    SPLIT_TILE: tl.constexpr,
    COUNTED: tl.constexpr,
):
    let_next_start()
    wait_for_previous()
    token = tl.program_id(0).to(tl.int64)
    context = _context_of(token, positions, decodes, COUNTED)
    chunk = _chunk_of(context, num_splits, min_chunk, TILE)
    if chunk >= context:
        return
    used = tl.cdiv(context, chunk)
    part = (token * HEADS + tl.program_id(1)) * num_splits
    split = tl.arange(0, SPLIT_TILE)
    element = tl.arange(0, DIM)
    logs = tl.load(weights + part + split, mask=split < used, other=float("-inf"))
    share = tl.exp2(logs - tl.max(logs, 0))
    share = share / tl.sum(share, 0)
    parts = tl.load(partial + (part + split[:, None]) * DIM + element[None, :], mask=(split < used)[:, None], other=0.0)
    mixed = tl.sum(parts * share[:, None], 0)
    place = (token * HEADS + tl.program_id(1)) * DIM + element
    tl.store(out + place, mixed.to(out.dtype.element_ty))


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How decode contexts are split for one batch size.

    Attributes:
        num_splits: splits launched per sequence and KV head.
        min_chunk: a split has at least this many tokens, while there are splits left.
        tile: tokens read at a time, at most.
        num_warps: of a program.
        num_stages: tiles in flight.
    """

    num_splits: int
    min_chunk: int
    tile: int = 128
    num_warps: int = 4
    num_stages: int = 2

    def tile_of(self, line_bytes: int) -> int:
        """The tile, or the largest part of it that the GPU's shared memory holds so often; `line_bytes` of one key."""
        tile = self.tile
        while tile > _LEAST_TILE and stages(self.num_stages, 2 * tile * line_bytes) < self.num_stages:
            tile //= 2
        return tile


def plan_splits(sequences: int, kv_heads: int) -> SplitPlan:
    """Enough programs to fill the GPU, and no smaller pieces than that takes.

    The best of sweeps over whole decode steps on an H200, three shapes at contexts of 575 to 3,000 tokens. Each piece more is
    one more to combine. Many programs hide each other's waiting; mixed contexts of large batches want pieces of 512 tokens, or
    the longest ones are still read when the others have ended.
    """
    pairs = sequences * kv_heads
    if pairs <= 8:
        return SplitPlan(32, min_chunk=64, tile=64, num_stages=3)
    if pairs <= 256:
        return SplitPlan(32 if pairs <= 48 else 16 if pairs < 128 else 8, min_chunk=128)
    if pairs <= 1024:
        return SplitPlan(5, min_chunk=512)
    return SplitPlan(4, min_chunk=512, tile=64, num_warps=2)


def decode_attention(
    qkv: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    tokens: Tokens,
    out: torch.Tensor,
    plan: SplitPlan,
    decodes: torch.Tensor | None = None,
) -> None:
    """Attend from each token to its whole sequence, itself included; keys and values are in the cache.

    Args:
        qkv: `[tokens, heads + 2 * kv_heads, head_dim]`, contiguous; the rotated queries come first.
        cache: the layer's keys and values.
        tokens: positions and block tables.
        out: `[tokens, heads, head_dim]`, contiguous.
        plan: how to split.
        decodes: int64 `[1]`, how many leading tokens this is for, the others' rows of `out` stay; None = all of them.
    """
    keys, values = cache
    counted = tokens.positions if decodes is None else decodes
    count, heads, dim = out.shape
    kv_heads = keys.shape[2]
    tile = plan.tile_of(dim * keys.element_size())
    partial = torch.empty(count, heads, plan.num_splits, dim, dtype=torch.float32, device=out.device)
    weights = torch.empty(count, heads, plan.num_splits, dtype=torch.float32, device=out.device)
    launch(
        _split_kernel,
        (kv_heads, count, plan.num_splits),
        qkv,
        keys,
        values,
        tokens.positions,
        counted,
        tokens.rows,
        tokens.tables,
        out,
        partial,
        weights,
        qkv.stride(0),
        tokens.tables.stride(0),
        _LOG2E / dim**0.5,
        plan.num_splits,
        plan.min_chunk,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        BLOCK_SIZE=tokens.block_size,
        GROUP_TILE=max(16, triton.next_power_of_2(heads // kv_heads)),
        TILE=tile,
        COUNTED=decodes is not None,
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
        **LAUNCH,
    )
    launch(
        _combine_kernel,
        (count, heads),
        tokens.positions,
        counted,
        out,
        partial,
        weights,
        plan.num_splits,
        plan.min_chunk,
        HEADS=heads,
        DIM=dim,
        TILE=tile,
        SPLIT_TILE=triton.next_power_of_2(plan.num_splits),
        COUNTED=decodes is not None,
        num_warps=max(1, triton.next_power_of_2(plan.num_splits) * dim // _WARP_ELEMENTS),
        **LAUNCH,
    )
