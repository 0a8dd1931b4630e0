"""Matrix products for one row, with what surrounds them fused in: at this size only reading the weights takes time.

    out = [norm](x) @ weight.T [+ bias]         the norm of the residual stream is taken on the fly
    out = silu(gate) * up                       of a fused gate and up matrix
    out += x @ weight.T                         into the residual stream

A program owns `N_TILE` outputs and streams their weights once, straight to registers. The norm's scale factor is one number,
so it is applied to the sums at the end.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

# More rows want the matrix units (`narrow.py`).
MAX_ROWS = 1


@triton.jit
def _one_row_kernel(
    x,
    gain,
    weight,
    bias,
    out,
    outputs,
    inputs,
    eps,
    N_TILE: tl.constexpr,
    K_TILE: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
):
    let_next_start()
    n = tl.program_id(0) * N_TILE + tl.arange(0, N_TILE)
    real = n < outputs
    wait_for_previous()
    acc = tl.zeros((N_TILE, K_TILE), tl.float32)
    acc_up = tl.zeros((N_TILE, K_TILE), tl.float32)
    squares = tl.zeros((K_TILE,), tl.float32)
    for first in tl.range(0, inputs, K_TILE):
        k = first + tl.arange(0, K_TILE)
        inside = k < inputs
        place = n[:, None] * inputs + k[None, :]
        mask = real[:, None] & inside[None, :]
        w = tl.load(weight + place, mask=mask, other=0.0)
        if GATED:
            w_up = tl.load(weight + outputs * inputs + place, mask=mask, other=0.0)
        value = tl.load(x + k, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value *= tl.load(gain + k, mask=inside, other=0.0).to(tl.float32)
        acc += w.to(tl.float32) * value[None, :]
        if GATED:
            acc_up += w_up.to(tl.float32) * value[None, :]
    result = tl.sum(acc, 1)
    scale = 1.0
    if NORM:
        scale = tl.rsqrt(tl.sum(squares) / inputs + eps)
        result *= scale
    if GATED:
        result = result / (1.0 + tl.exp(-result)) * (tl.sum(acc_up, 1) * scale)
    if BIAS:
        result += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)
    if RESIDUAL:
        result += tl.load(out + n, mask=real, other=0.0).to(tl.float32)
    tl.store(out + n, result.to(out.dtype.element_ty), mask=real)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut; see the kernels."""

    n_tile: int
    k_tile: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Gain:
    """RMSNorm of the input."""

    weight: torch.Tensor
    eps: float


def tiling(outputs: int, inputs: int, gated: bool) -> Tiling:
    """The cut by the shape of the matrix."""
    n_tile = 8 if outputs >= 2048 else 4
    k_tile = min(1024, triton.next_power_of_2(inputs))
    return Tiling(n_tile // 2 if gated and n_tile > 4 else n_tile, k_tile, num_warps=4, num_stages=1)


def skinny_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    gain: Gain | None = None,
    bias: torch.Tensor | None = None,
    gated: bool = False,
    add_to: torch.Tensor | None = None,
) -> torch.Tensor:
    """The product of one row.

    Args:
        x: `[1, inputs]`, contiguous.
        weight: `[outputs, inputs]`; with `gated`, `[2 * outputs, inputs]`, gate first.
        gain: normalizes `x` first.
        bias: `[outputs]`.
        gated: combine both halves as `silu(gate) * up`.
        add_to: `[1, outputs]`, contiguous; takes the result in and is returned.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    out = x.new_empty(rows, outputs) if add_to is None else add_to
    cut = tiling(outputs, inputs, gated)
    grid = (triton.cdiv(outputs, cut.n_tile),)
    tensors = (x, x if gain is None else gain.weight, weight, x if bias is None else bias, out)
    options = {
        "N_TILE": cut.n_tile,
        "K_TILE": cut.k_tile,
        "NORM": gain is not None,
        "GATED": gated,
        "RESIDUAL": add_to is not None,
        "BIAS": bias is not None,
        "num_warps": cut.num_warps,
        "num_stages": cut.num_stages,
    }
    eps = 0.0 if gain is None else gain.eps
    launch(_one_row_kernel, grid, *tensors, outputs, inputs, eps, **options, **LAUNCH)
    return out
