"""Which form of a decoder computes on the CPU."""

from dataclasses import replace

import pytest
import small_decoder
import torch
from native_library import require

from headway_engine.model import native
from headway_engine.model.native import NativeDecoder
from headway_engine.model.packing import PackedLinear
from headway_engine.model.transformer import Decoder, Linear
from headway_engine.runtime import loading
from headway_engine.runtime.config import ModelLoadError

SHAPE = replace(small_decoder.SHAPE, num_layers=1, tie_word_embeddings=False)


def decoder(dtype: torch.dtype) -> Decoder:
    model = Decoder(SHAPE)
    for parameter in model.parameters():
        parameter.data.normal_()
    return model.to(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_library_computes_where_it_can(dtype: str) -> None:
    require(dtype)
    kept = torch.float32 if dtype == "float32" else torch.bfloat16
    model, name = loading.for_cpu(decoder(kept), dtype, 64)
    assert isinstance(model, NativeDecoder)
    assert name == dtype


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "bfloat16")])
def test_torch_computes_elsewhere_and_the_log_says_why(
    dtype: str, stored: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "problem", lambda *_: "this CPU has no avx512_vnni")
    model, name = loading.for_cpu(decoder(getattr(torch, stored)), dtype, 64)
    assert isinstance(model, Decoder)
    assert name == stored
    assert model.rotation is not None
    assert all(isinstance(part, Linear | PackedLinear) for part in (model.head, model.layers[0].attention.qkv))
    (line,) = [record.message for record in caplog.records if record.name == loading.__name__]
    assert line == f"steps are computed by torch in {stored}, which costs speed: this CPU has no avx512_vnni"


def test_int8_is_refused_on_a_gpu() -> None:
    assert loading._dtype("int8", torch.device("cpu")) == "int8"
    with pytest.raises(ModelLoadError, match=r"^--dtype int8 needs --device cpu, got cuda$"):
        loading._dtype("int8", torch.device("cuda"))
