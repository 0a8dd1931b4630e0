"""Packed matrices compute what plain ones do, or are not used."""

import types
from dataclasses import replace

import pytest
import small_decoder
import torch
from torch import nn

from headway_engine.model import packing
from headway_engine.model.packing import PackedLinear, pack
from headway_engine.model.transformer import Decoder, Linear

SHAPE = replace(small_decoder.SHAPE, architecture="qwen2", attention_bias=True)
LINEARS = 2 * 4 + 1


def decoder(dtype: torch.dtype) -> Decoder:
    torch.manual_seed(3)
    model = Decoder(SHAPE)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    return model.to(dtype)


def kinds(model: nn.Module) -> tuple[int, int]:
    """How many plain and packed matrices there are."""
    found = list(model.modules())
    return sum(isinstance(m, Linear) for m in found), sum(isinstance(m, PackedLinear) for m in found)


def need_packing(dtype: torch.dtype) -> None:
    if packing._problem(dtype) is not None:
        pytest.skip("this machine cannot pack this type")


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_product_equals_the_plain_one(dtype: torch.dtype, bias: bool, rows: int) -> None:
    need_packing(dtype)
    torch.manual_seed(4)
    linear = Linear(70, 90, bias=bias)
    for parameter in linear.parameters():
        parameter.data.normal_()
    linear = linear.to(dtype)
    x = torch.randn(rows, 70).to(dtype)
    exact = nn.functional.linear(
        x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double()
    )
    # Sums of 70 products with values up to about 35: float32 rounds below 1e-4, bfloat16 to 1 in 256.
    allowed = 1e-4 if dtype is torch.float32 else 35 / 256
    torch.testing.assert_close(PackedLinear(linear)(x).double(), exact, atol=allowed, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_matrix_is_packed_and_the_embedding_stays_readable(dtype: torch.dtype) -> None:
    need_packing(dtype)
    model = decoder(dtype)
    embed, x = model.embed.clone(), torch.randn(3, 64).to(dtype)
    plain = model.head(x)
    assert kinds(model) == (LINEARS, 0)
    assert pack(model)
    assert kinds(model) == (0, LINEARS)
    assert torch.equal(model.embed, embed)
    torch.testing.assert_close(model.head(x), plain, atol=1e-4 if dtype is torch.float32 else 0.1, rtol=0)


def test_float16_is_not_packed() -> None:
    model = decoder(torch.float16)
    assert not pack(model)
    assert kinds(model) == (LINEARS, 0)


def missing(*_: object) -> torch.Tensor:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def wrong(x: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_zeros(len(x), 80)


@pytest.mark.parametrize(("broken", "cause"), [(missing, "has no attribute"), (wrong, "differs from the plain one")])
def test_where_torch_cannot_the_plain_matrices_stay_and_the_log_says_why(
    broken: object, cause: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operators = types.SimpleNamespace(_reorder_linear_weight=lambda weight, rows: weight, _linear_pointwise=broken)
    monkeypatch.setattr(torch, "ops", types.SimpleNamespace(mkldnn=operators))
    model = decoder(torch.float32)
    assert not pack(model)
    assert kinds(model) == (LINEARS, 0)
    assert cause in caplog.text
