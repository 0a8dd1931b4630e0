"""What lies between the qkv product and attention, in one pass: norm of q and k heads, rotation, and the KV cache write.

A program takes one token and `HEAD_TILE` of its heads. Queries are rotated in place; keys and values go to the slot that
the token's block table names (`core/batch.py` has the cache layout). Rotated keys are also kept in place when a prefill
attends to them directly. A product that came in parts is added up here first.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous


@triton.jit
def _kernel(
    qkv,
    parts,
    bias,
    keys,
    values,
    q_weight,
    k_weight,
    cos,
    sin,
    positions,
    rows,
    tables,
    table_stride,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    NORM: tl.constexpr,
    PARTS: tl.constexpr,
    BIAS: tl.constexpr,
):
    let_next_start()
    wait_for_previous()
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEAD_TILE + tl.arange(0, HEAD_TILE)
    element = tl.arange(0, HALF)
    position = tl.load(positions + token)
    block = tl.load(tables + tl.load(rows + token) * table_stride + position // BLOCK_SIZE)
    slot = block * BLOCK_SIZE + position % BLOCK_SIZE

    is_query = head < HEADS
    rotated = head < HEADS + KV_HEADS
    place = (token * (HEADS + 2 * KV_HEADS) + head[:, None]) * (2 * HALF) + element[None, :]
    exists = (head < HEADS + 2 * KV_HEADS)[:, None]
    if PARTS == 0:
        a = tl.load(qkv + place, mask=exists, other=0.0).to(tl.float32)
        b = tl.load(qkv + place + HALF, mask=exists, other=0.0).to(tl.float32)
    else:
        a = tl.zeros((HEAD_TILE, HALF), tl.float32)
        b = tl.zeros((HEAD_TILE, HALF), tl.float32)
        for part in tl.static_range(PARTS):
            line = parts + part * tl.num_programs(0).to(tl.int64) * ((HEADS + 2 * KV_HEADS) * 2 * HALF)
            a += tl.load(line + place, mask=exists, other=0.0)
            b += tl.load(line + place + HALF, mask=exists, other=0.0)
    if BIAS:
        bias_place = head[:, None] * (2 * HALF) + element[None, :]
        a += tl.load(bias + bias_place, mask=exists, other=0.0).to(tl.float32)
        b += tl.load(bias + bias_place + HALF, mask=exists, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)
        q_a = tl.load(q_weight + element).to(tl.float32)
        q_b = tl.load(q_weight + HALF + element).to(tl.float32)
        k_a = tl.load(k_weight + element).to(tl.float32)
        k_b = tl.load(k_weight + HALF + element).to(tl.float32)
        gain_a = tl.where(is_query[:, None], q_a[None, :], k_a[None, :])
        gain_b = tl.where(is_query[:, None], q_b[None, :], k_b[None, :])
        a = tl.where(rotated[:, None], a * scale[:, None] * gain_a, a)
        b = tl.where(rotated[:, None], b * scale[:, None] * gain_b, b)
    c = tl.load(cos + position * HALF + element)[None, :]
    s = tl.load(sin + position * HALF + element)[None, :]
    new_a = tl.where(rotated[:, None], a * c - b * s, a).to(qkv.dtype.element_ty)
    new_b = tl.where(rotated[:, None], b * c + a * s, b).to(qkv.dtype.element_ty)
    changed = rotated[:, None] if PARTS == 0 else exists
    tl.store(qkv + place, new_a, mask=changed)
    tl.store(qkv + place + HALF, new_b, mask=changed)

    is_key = (head >= HEADS) & rotated
    kv_head = tl.where(is_key, head - HEADS, head - HEADS - KV_HEADS)
    target = (slot * KV_HEADS + kv_head[:, None]) * (2 * HALF) + element[None, :]
    tl.store(keys + target, new_a, mask=is_key[:, None])
    tl.store(keys + target + HALF, new_b, mask=is_key[:, None])
    is_value = (head >= HEADS + KV_HEADS)[:, None] & exists
    tl.store(values + target, new_a, mask=is_value)
    tl.store(values + target + HALF, new_b, mask=is_value)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of the first half of a head, float32 `[positions, head_dim / 2]`."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorm weights of query and key heads."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where the tokens of a launch are: position in the sequence, row of the block tables, and the tables themselves.

    Attributes:
        positions: int64 `[tokens]`.
        rows: int64 `[tokens]`.
        tables: int64 `[rows, blocks]`; a view whose rows may be longer than its width.
        block_size: tokens per block.
    """

    positions: torch.Tensor
    rows: torch.Tensor
    tables: torch.Tensor
    block_size: int


def rotate_and_store(
    qkv: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    tokens: Tokens,
    rotation: Rotation,
    norms: HeadNorms | None,
    parts: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> None:
    """Rotate queries and keys of `qkv` in place and write keys and values to the cache.

    Args:
        qkv: `[tokens, heads + 2 * kv_heads, head_dim]`, contiguous.
        cache: the layer's keys and values, each `[num_blocks, block_size, kv_heads, head_dim]`.
        tokens: positions and block tables.
        rotation: the table for all positions.
        norms: applied to q and k heads before the rotation; None for models without.
        parts: float32 `[parts, *shape of qkv]`, whose sum is written to `qkv` first; None when `qkv` holds the product.
        bias: added to the sum of the parts.
    """
    count, heads, dim = qkv.shape
    keys, values = cache
    kv_heads = keys.shape[2]
    # Few tokens: more programs; many tokens: fewer loads of the same table entries, and few heads that fill no tile.
    tile = 1 if count <= 32 else 8 if count <= 256 else 16
    warps = 1 if tile == 1 else 2 if tile == 16 and dim <= 64 else 4
    launch(
        _kernel,
        (count, triton.cdiv(heads, tile)),
        qkv,
        qkv if parts is None else parts,
        qkv if bias is None else bias,
        keys,
        values,
        qkv if norms is None else norms.query,
        qkv if norms is None else norms.key,
        rotation.cos,
        rotation.sin,
        tokens.positions,
        tokens.rows,
        tokens.tables,
        tokens.tables.stride(0),
        0.0 if norms is None else norms.eps,
        HEADS=heads - 2 * kv_heads,
        KV_HEADS=kv_heads,
        HALF=dim // 2,
        BLOCK_SIZE=tokens.block_size,
        HEAD_TILE=tile,
        NORM=norms is not None,
        PARTS=0 if parts is None else parts.shape[0],
        BIAS=bias is not None,
        num_warps=warps,
        **LAUNCH,
    )
