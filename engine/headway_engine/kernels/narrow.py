"""Matrix products for 2 to 128 rows: reading the weights takes the time, the matrix units do the sums on the way.

    parts[split, rows, outputs] = x @ weight.T of a share of the inputs     whoever reads the result adds the splits up
    out[rows, outputs] = silu(gate) * up                                    of a fused gate and up matrix with many outputs

The weights are the left operand of the matrix units, whose tiles have 64 rows at least, and the few rows of `x` the right one:
nothing is computed in vain. A matrix of few outputs is split along its inputs until there is a program for each place that
the GPU has for them; the sums stay float32, and adding them up is part of the next kernel.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch, stages
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

MAX_ROWS = 128
_N_TILE = 64
# Beyond so many rows the library is ahead in matrices of more than so many weights, unless the gate is applied here.
_NARROWEST_ROWS = 64
_SMALL_MATRIX = 5 << 20
# From so many programs on, nothing is gained by splitting, and the gate can be applied.
_GATED_PROGRAMS = 200


@dataclass(frozen=True, slots=True)
class Cut:
    """How a product is cut, by sweeps over whole decode steps on an H200.

    Attributes:
        outputs: of a program.
        inputs: of a tile.
        stages: tiles in flight, at most.
        warps: of a program.
        programs: wanted on the GPU; splits along the inputs double until there are as many.
        most_splits: however few programs that leaves.
    """

    outputs: int
    inputs: int
    stages: int
    warps: int = 4
    programs: int = 1
    most_splits: int = 1


# With few rows a program keeps many tiles in flight, and more splits cost more in adding them up than they bring; the tiles of
# more rows leave no room for that.
_DEEP_MAX_ROWS = 32
_DEEP = Cut(_N_TILE, 128, stages=6, programs=96, most_splits=4)
_SHALLOW = Cut(_N_TILE, 128, stages=4, programs=96, most_splits=8)
_GATED = Cut(_N_TILE, 128, stages=4)
# The more rows there are, the more of what a program reads is theirs: with twice the outputs they are read half as often.
_WIDE_GATED = Cut(2 * _N_TILE, 64, stages=4, warps=8)
_STAGES_OF_64_INPUTS = 6


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
    x_lines = x + row * inputs
    acc = tl.zeros((N_TILE, ROWS), tl.float32)
    acc_up = tl.zeros((N_TILE, ROWS), tl.float32)
    for first in tl.range(begin, end, K_TILE):
        k = first + tl.arange(0, K_TILE)
        w = tl.load(lines[:, None] + k[None, :])
        # Rows that are missing ask for nothing: all programs reading one row in their place wait in line for it.
        v = tl.load(x_lines[None, :] + k[:, None], mask=real[None, :], other=0.0)
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


def gates(weight: torch.Tensor, rows: int) -> bool:
    """Whether a fused gate and up matrix has outputs enough to apply the gate in its product."""
    outputs = weight.shape[0] // 2
    return outputs % _gated_cut(rows).outputs == 0 and outputs // _N_TILE >= _GATED_PROGRAMS


def narrow_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The product in parts `[splits, rows, outputs]`, to be added up: float32, or the library's only one in the type of `x`.

    Args:
        x: `[rows, inputs]`, contiguous, up to `MAX_ROWS` rows.
        weight: `[outputs, inputs]` that `fits`.
    """
    (rows, inputs), outputs = x.shape, weight.shape[0]
    if rows > _NARROWEST_ROWS and weight.numel() > _SMALL_MATRIX:
        return F.linear(x, weight).unsqueeze(0)
    cut = _DEEP if rows <= _DEEP_MAX_ROWS else _SHALLOW
    k_tile = _k_tile(cut, inputs)
    splits = 1
    while splits < cut.most_splits and splits * (outputs // cut.outputs) < cut.programs:
        splits *= 2
    part = triton.cdiv(inputs // k_tile, splits) * k_tile
    out = torch.empty(triton.cdiv(inputs, part), rows, outputs, dtype=torch.float32, device=x.device)
    _launch(x, weight, out, part, cut)
    return out


def narrow_gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[rows, outputs]`, of a matrix `[2 * outputs, inputs]` that `gates`; see `narrow_linear`."""
    out = x.new_empty(x.shape[0], weight.shape[0] // 2)
    _launch(x, weight, out, x.shape[1], _gated_cut(x.shape[0]), gated=True)
    return out


def _gated_cut(rows: int) -> Cut:
    return _GATED if rows <= _NARROWEST_ROWS else _WIDE_GATED


def _k_tile(cut: Cut, inputs: int) -> int:
    return cut.inputs if inputs % cut.inputs == 0 else 64


def _launch(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, part: int, cut: Cut, gated: bool = False) -> None:
    (rows, inputs), outputs = x.shape, out.shape[-1]
    k_tile, row_tile = _k_tile(cut, inputs), max(16, triton.next_power_of_2(rows))
    most = cut.stages if k_tile == cut.inputs else _STAGES_OF_64_INPUTS
    lines = cut.outputs * (2 if gated else 1) + row_tile
    launch(
        _kernel,
        (outputs // cut.outputs, triton.cdiv(inputs, part)),
        x,
        weight,
        out,
        rows,
        outputs,
        inputs,
        part,
        ROWS=row_tile,
        N_TILE=cut.outputs,
        K_TILE=k_tile,
        GATED=gated,
        num_warps=cut.warps,
        num_stages=stages(most, lines * k_tile * x.element_size()),
        **LAUNCH,
    )
