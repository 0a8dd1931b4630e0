"""Matrices laid out for the CPU's vector units.

A plain `[outputs, inputs]` matrix is repacked by oneDNN in each call, or not packed at all. Packed once at loading, one
layer's products take 0.5 to 0.75 of the time (float32 and bfloat16, 1 to 256 tokens, measured on one core with AVX-512).
The packed form can only be multiplied with, so it replaces the plain one.
"""

import torch
from torch import nn

from headway_engine.model.transformer import Decoder, Linear

# oneDNN lays the matrix out for about this many rows at once; a layout for 16 is also the best one measured for 1 and 256.
ROWS_HINT = 16


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


def pack(model: Decoder) -> None:
    """Replace the matrices of a decoder on the CPU; one by one, so that at most one exists twice."""
    # float16 has no packed kernel on most CPUs; builds without oneDNN have none at all.
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch ships it untyped
    if not has_onednn or model.embed.dtype not in (torch.float32, torch.bfloat16):
        return
    if model.embed.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - as above
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, PackedLinear(child))
