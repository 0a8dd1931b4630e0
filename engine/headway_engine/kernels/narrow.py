"""Matrix products for 2 to 64 rows: reading the weights takes the time, the matrix units do the sums on the way.

    parts[split, rows, outputs] = x @ weight.T of a share of the inputs     whoever reads the result adds the splits up
    out[rows, outputs] = silu(gate) * up                                    of a fused gate and up matrix with many outputs

The weights are the left operand of the matrix units, whose tiles have 64 rows at least, and the few rows of `x` the right one:
nothing is computed in vain. A matrix of few outputs is split along its inputs until there is a program for each place that
the GPU has for them; the sums stay float32, and adding them up is part of the next kernel.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

# At 128 rows the library is ahead in the wide matrices, at 256 in all that take long.
MAX_ROWS = 64
_N_TILE = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """How a product is split along its inputs.

    Attributes:
        programs: wanted on the GPU; splits double until there are as many.
        most_splits: however few programs that leaves.
        stages: tiles in flight, of 128 inputs.
    """

    programs: int
    most_splits: int
    stages: int


# How a product is split, by sweeps over whole decode steps on an H200: with up to so many rows, a program keeps many tiles in
# flight, and more splits cost more in adding them up than they bring; the tiles of more rows leave no room for that.
_DEEP_MAX_ROWS = 32
_DEEP = Cut(programs=128, most_splits=4, stages=6)
_SHALLOW = Cut(programs=96, most_splits=8, stages=4)
# From so many programs on, nothing is gained by splitting, and the gate can be applied.
_GATED_PROGRAMS = 200


@triton.jit(do_not_specialize=["rows"])
def _kernel(
    x,
    weight,
    out,
    rows,
    outputs,
    inputs,
    part,
    ROWS: tl.constexpr,
    N_TILE: tl.constexpr,
    K_TILE: tl.constexpr,
    GATED: tl.constexpr,
):
    let_next_start()
    n = tl.program_id(0) * N_TILE + tl.arange(0, N_TILE)
    split = tl.program_id(1)
    begin = split * part
    end = tl.minimum(begin + part, inputs)
    lines = weight + n.to(tl.int64) * inputs
    up_lines = lines + outputs.to(tl.int64) * inputs
    wait_for_previous()
    row = tl.arange(0, ROWS)
    real = row < rows
    x_lines = x + tl.where(real, row, 0) * inputs
    acc = tl.zeros((N_TILE, ROWS), tl.float32)
    acc_up = tl.zeros((N_TILE, ROWS), tl.float32)
    for first in tl.range(begin, end, K_TILE):
        k = first + tl.arange(0, K_TILE)
        w = tl.load(lines[:, None] + k[None, :])
        v = tl.load(x_lines[None, :] + k[:, None])
        acc = tl.dot(w, v, acc)
        if GATED:
            acc_up = tl.dot(tl.load(up_lines[:, None] + k[None, :]), v, acc_up)
    if GATED:
        acc = acc / (1.0 + tl.exp(-acc)) * acc_up
    place = (split * rows + row[None, :]) * outputs + n[:, None]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=real[None, :])


def fits(weight: torch.Tensor) -> bool:
    """Whether the tiles divide this matrix; the library takes the others."""
    outputs, inputs = weight.shape
    return outputs % _N_TILE == 0 and inputs % 64 == 0


def gates(weight: torch.Tensor) -> bool:
    """Whether a fused gate and up matrix has outputs enough to apply the gate in its product."""
    return weight.shape[0] // 2 % _N_TILE == 0 and weight.shape[0] // 2 // _N_TILE >= _GATED_PROGRAMS


def narrow_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product in float32 parts `[splits, rows, outputs]`, to be added up.

    Args:
        x: `[rows, inputs]`, contiguous, up to `MAX_ROWS` rows.
        weight: `[outputs, inputs]` that `fits`.
    """
    (rows, inputs), outputs = x.shape, weight.shape[0]
    k_tile, cut = _k_tile(inputs), _cut(rows)
    splits = 1
    while splits < cut.most_splits and splits * (outputs // _N_TILE) < cut.programs:
        splits *= 2
    part = triton.cdiv(inputs // k_tile, splits) * k_tile
    out = torch.empty(triton.cdiv(inputs, part), rows, outputs, dtype=torch.float32, device=x.device)
    _launch(x, weight, out, part, cut.stages)
    return out


def narrow_gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[rows, outputs]`, of a matrix `[2 * outputs, inputs]` that `gates`; see `narrow_linear`."""
    out = x.new_empty(x.shape[0], weight.shape[0] // 2)
    _launch(x, weight, out, x.shape[1], _SHALLOW.stages, gated=True)
    return out


def _cut(rows: int) -> Cut:
    return _DEEP if rows <= _DEEP_MAX_ROWS else _SHALLOW


def _k_tile(inputs: int) -> int:
    return 128 if inputs % 128 == 0 else 64


def _launch(
    x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, part: int, stages: int, gated: bool = False
) -> None:
    (rows, inputs), outputs = x.shape, out.shape[-1]
    k_tile = _k_tile(inputs)
    launch(
        _kernel,
        (outputs // _N_TILE, triton.cdiv(inputs, part)),
        x,
        weight,
        out,
        rows,
        outputs,
        inputs,
        part,
        ROWS=max(16, triton.next_power_of_2(rows)),
        N_TILE=_N_TILE,
        K_TILE=k_tile,
        GATED=gated,
        num_warps=4,
        num_stages=stages if k_tile == 128 else 6,
        **LAUNCH,
    )
