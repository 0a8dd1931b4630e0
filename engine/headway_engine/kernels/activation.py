"""`silu(gate) * up` on the output of the fused gate and up matrix."""

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

_BLOCK, _LARGE_BLOCK = 1024, 2048
# From here on there are programs enough with the large block, unless it leaves a block half empty.
_MANY_TOKENS = 256


@triton.jit
def _kernel(gate_up, out, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    let_next_start()
    wait_for_previous()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.zeros((BLOCK,), tl.float32)
    up = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        line = gate_up + (part * tl.num_programs(0) + row) * 2 * size
        gate += tl.load(line + column, mask=inside, other=0.0).to(tl.float32)
        up += tl.load(line + size + column, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * size + column, value.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`[tokens, size]` from the contiguous `[tokens, 2 * size]`: gate in the first half, up in the second.

    Args:
        gate_up: as above, or in parts `[parts, tokens, 2 * size]`.
        dtype: of the result; that of `gate_up` without it.
    """
    tokens, size = gate_up.shape[-2], gate_up.shape[-1] // 2
    out = torch.empty(tokens, size, dtype=dtype or gate_up.dtype, device=gate_up.device)
    parts = gate_up.shape[0] if gate_up.dim() == 3 else 1
    large = tokens > _MANY_TOKENS and (size % _LARGE_BLOCK == 0 or size % _BLOCK != 0)
    block, warps = (_LARGE_BLOCK, 8) if large else (_BLOCK, 4)
    launch(
        _kernel,
        (tokens, triton.cdiv(size, block)),
        gate_up,
        out,
        size,
        PARTS=parts,
        BLOCK=block,
        num_warps=warps,
        **LAUNCH,
    )
    return out
