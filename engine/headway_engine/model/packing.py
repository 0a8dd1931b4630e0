"""Matrices laid out for the CPU's vector units.

A plain `[outputs, inputs]` matrix is repacked by oneDNN in each call, or not packed at all. Packed once at loading, one
layer's products take 0.5 to 0.75 of the time (float32 and bfloat16, 1 to 256 tokens, measured on one core with AVX-512).

The packed form can only be multiplied with, so it replaces the plain one. The exception is an output matrix that is also
the embedding: rows are looked up in the plain form, so such a matrix exists twice (SmolLM2: 108 MiB more in float32). Its
product is the largest of a step, and packed it takes half the time at 16 rows.

torch offers this layout only through operators that it calls private. They are tried on a small matrix first: where they
are missing, have other parameters or compute something else, the plain matrices stay, and only speed is lost.
"""

import logging

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it
from torch import nn

from headway_engine.model.transformer import Decoder, Linear

logger = logging.getLogger(__name__)

# oneDNN lays the matrix out for about this many rows at once; a layout for 16 is also the best one measured for 1 and 256.
ROWS_HINT = 16
# float16 has no packed kernel on most CPUs.
_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """`Linear` with a packed matrix."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data, ROWS_HINT)  # noqa: SLF001 - the only way to it
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # noqa: SLF001 - as above
        return out


def pack(model: Decoder) -> bool:
    """Replace the matrices of a decoder on the CPU; one by one, so that at most one more than before exists at a time.

    Returns:
        False when this torch or this CPU cannot: the decoder is as it was.
    """
    dtype = model.embed.dtype
    if dtype not in _DTYPES:
        return False
    problem = _problem(dtype)
    if problem is not None:
        logger.warning("matrices stay unpacked, which costs speed: %s", problem)
        return False
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, PackedLinear(child))
    return True


def _problem(dtype: torch.dtype) -> str | None:
    """Why matrices of this type cannot be packed here, or None; found by packing one and multiplying with it."""
    random = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        linear = Linear(48, 80, bias=True)
    linear.weight = nn.Parameter(torch.randn(80, 48, generator=random).to(dtype), requires_grad=False)
    linear.bias = nn.Parameter(torch.randn(80, generator=random).to(dtype), requires_grad=False)
    try:
        packed = PackedLinear(linear)
        for rows in (1, 5, 33):
            x = torch.randn(rows, 48, generator=random).to(dtype)
            # Sums of 48 products of about 1, whose order is free; bfloat16 keeps 8 bits of a sum of at most about 30.
            tolerance = 1e-4 if dtype == torch.float32 else 0.25
            if not torch.allclose(packed(x).float(), F.linear(x, linear.weight, linear.bias).float(), 0.0, tolerance):
                return f"a packed {dtype} product of {rows} rows differs from the plain one"
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__}: {str(error).strip().splitlines()[0]}"
    return None
