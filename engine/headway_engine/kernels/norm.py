"""Residual addition and RMSNorm in one pass: `h += delta; out = norm(h) * weight`, a program per row.

What is added may come in parts, as a product split along its inputs leaves it.
"""

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous


@triton.jit
def _kernel(h, delta, weight, out, size, eps, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    let_next_start()
    wait_for_previous()
    first = tl.program_id(0).to(tl.int64) * size
    column = tl.arange(0, BLOCK)
    inside = column < size
    x = tl.load(h + first + column, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(PARTS):
        place = (part * tl.num_programs(0)).to(tl.int64) * size + first + column
        x += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
    if PARTS > 0:
        rounded = x.to(h.dtype.element_ty)
        tl.store(h + first + column, rounded, mask=inside)
        x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / size + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first + column, (x * scale * gain).to(out.dtype.element_ty), mask=inside)


def add_rms_norm(h: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The normalized residual stream.

    Args:
        h: `[tokens, size]`, contiguous; `delta` is added to it in place.
        delta: like `h`, or in parts `[parts, tokens, size]`, or None when there is nothing to add.
        weight: `[size]`.
        eps: of the norm.
    """
    tokens, size = h.shape
    out = torch.empty_like(h)
    block = triton.next_power_of_2(size)
    launch(
        _kernel,
        (tokens,),
        h,
        h if delta is None else delta,
        weight,
        out,
        size,
        eps,
        PARTS=0 if delta is None else delta.numel() // h.numel(),
        BLOCK=block,
        num_warps=8 if block >= 2048 else 4,
        **LAUNCH,
    )
    return out
