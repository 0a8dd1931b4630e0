"""The C library: its products and its attention against plain ones, and when it is not used."""

import ctypes
import math
import mmap
from ctypes import POINTER, Structure, c_bool, c_int, c_long, c_size_t, c_void_p
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from native_library import require
from small_decoder import SHAPE
from torch.nn import functional

from headway_engine.model.native import TYPES, HugePages, Packed, pack, problem
from headway_engine.native import build, library

# As in headway.h.
STORE, ADD, GATE = range(3)
# How products are computed; `amx` is bfloat16 by the matrix unit.
KINDS = ["float32", "bfloat16", "amx", "int8"]


class Product(Structure):
    """See headway.h."""

    _fields_: ClassVar = [
        ("matrix", POINTER(library.Matrix)),
        *((name, c_void_p) for name in ("x", "blocks", "out")),
        ("stride", c_long),
        ("rows", c_int),
        ("type", c_int),
        ("finish", c_int),
        ("amx", c_bool),
    ]


def dtype_of(kind: str) -> str:
    return "bfloat16" if kind == "amx" else kind


@pytest.fixture(scope="module")
def native() -> ctypes.CDLL:
    require("int8")
    loaded = library.load()
    assert not isinstance(loaded, str)
    loaded.pack_row.argtypes = [c_void_p, c_int, c_int, c_void_p, c_void_p]
    loaded.pack_row.restype = None
    loaded.pool_start.argtypes = [c_int, c_void_p, c_void_p]
    loaded.pool_start.restype = c_void_p
    loaded.pool_stop.argtypes = [c_void_p]
    loaded.product.argtypes = [c_void_p, POINTER(Product)]
    loaded.product.restype = None
    loaded.attend.argtypes = [*(POINTER(s) for s in (library.Model, library.Layer, library.Step)), c_int, c_int]
    loaded.attend.argtypes += [c_void_p] * 3
    loaded.attend.restype = None
    return loaded


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, native: ctypes.CDLL) -> str:
    if request.param == "amx" and not library.amx():
        pytest.skip("this CPU has no AMX, or the kernel does not allow it")
    return str(request.param)


def stored(native: ctypes.CDLL, x: torch.Tensor, packed: Packed, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as inputs of products, and the scale and shift of their blocks."""
    inputs = torch.full((len(x), packed.weight.shape[1] * 4), 0xFF, dtype=torch.uint8)  # NaN where nothing is written
    blocks = torch.zeros(len(x), packed.weight.shape[1] // 8, 2)
    for row, values in enumerate(x):
        native.pack_row(values.data_ptr(), len(values), TYPES[dtype], inputs[row].data_ptr(), blocks[row].data_ptr())
    return inputs, blocks


def at_the_end_of_memory(values: torch.Tensor) -> torch.Tensor:
    """A copy behind which nothing can be read: who tries ends with a segmentation fault."""
    size = values.nbytes
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    room = torch.frombuffer(mmap.mmap(-1, pages + mmap.PAGESIZE), dtype=torch.uint8)
    forbidden = ctypes.CDLL(None).mprotect(c_void_p(room.data_ptr() + pages), c_size_t(mmap.PAGESIZE), 0)
    assert forbidden == 0
    copy = room[pages - size : pages].view(values.dtype).view(values.shape)
    return copy.copy_(values)


def multiplied(
    native: ctypes.CDLL,
    x: torch.Tensor,
    weight: torch.Tensor,
    kind: str,
    bias: torch.Tensor | None = None,
    finish: int = STORE,
) -> torch.Tensor:
    """`x @ weight.T + bias`, finished on ones. The next matrix is fetched meanwhile, and here there is none."""
    dtype = dtype_of(kind)
    packed = pack(weight, dtype)
    inputs, blocks = stored(native, x, packed, dtype)
    kept = at_the_end_of_memory(packed.weight)
    width = packed.weight.shape[0] * 32
    out = torch.ones(len(x), width)
    padded = None if bias is None else functional.pad(bias, (0, width - len(bias)))
    matrix = library.Matrix(
        weight=kept.data_ptr(),
        scale=None if packed.scale is None else packed.scale.data_ptr(),
        bias=None if padded is None else padded.data_ptr(),
        groups=packed.weight.shape[1],
        outputs=width,
    )
    asked = Product(
        *(ctypes.pointer(matrix), inputs.data_ptr(), blocks.data_ptr(), out.data_ptr(), width, len(x), TYPES[dtype]),
        *(finish, kind == "amx"),
    )
    pool = native.pool_start(1, None, None)
    native.product(pool, ctypes.byref(asked))
    native.pool_stop(pool)
    return out[:, : len(weight)]


def as_kept(values: torch.Tensor, dtype: str, block: int) -> torch.Tensor:
    """What is left of numbers in this type; int8 by the largest of each block."""
    if dtype == "float32":
        return values
    if dtype == "bfloat16":
        return values.bfloat16().float()
    parts = functional.pad(values, (0, -values.shape[1] % block)).unflatten(1, (-1, block))
    scale = parts.abs().amax(2, keepdim=True) / 127
    return ((parts / scale).round() * scale).flatten(1)[:, : values.shape[1]]


@pytest.mark.parametrize("rows", [*range(1, 18), 32, 33, 130])
def test_a_product_is_the_plain_one_of_what_the_type_keeps(native: ctypes.CDLL, rows: int, kind: str) -> None:
    torch.manual_seed(rows)
    dtype = dtype_of(kind)
    for inputs, outputs in ((16, 1), (48, 33), (64, 64), (80, 90), (304, 70)):
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        expected = as_kept(x, dtype, 32).double() @ as_kept(weight, dtype, inputs).double().T
        out = multiplied(native, x, weight, kind)
        # Scales and sums are float32; int8 may round a number that lies between two bytes to the other one.
        torch.testing.assert_close(out.double(), expected, atol=0.1 if dtype == "int8" else 1e-4, rtol=1e-5)
        # How large sums of these lengths are, whatever their signs.
        size = torch.outer(x.norm(dim=1), weight.norm(dim=1)) / math.sqrt(inputs)
        error = ((out - functional.linear(x, weight)) / size).square().mean().sqrt()
        assert error < {"float32": 1e-6, "bfloat16": 1e-2, "int8": 4e-2}[dtype]


def test_a_product_adds_the_bias_and_the_residual(native: ctypes.CDLL, kind: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 48), torch.randn(70, 48), torch.randn(70)
    plain = multiplied(native, x, weight, kind)
    torch.testing.assert_close(multiplied(native, x, weight, kind, bias), plain + bias)
    torch.testing.assert_close(multiplied(native, x, weight, kind, finish=ADD), plain + 1)


def test_a_gated_product_is_half_as_wide(native: ctypes.CDLL, kind: str) -> None:
    torch.manual_seed(3)
    x, weight = 3 * torch.randn(35, 48), torch.randn(96, 48)
    gate, up = multiplied(native, x, weight, kind).unflatten(1, (3, 2, 16)).unbind(2)
    out = multiplied(native, x, weight, kind, finish=GATE)
    torch.testing.assert_close(out[:, :48], (functional.silu(gate) * up).flatten(1))
    assert (out[:, 48:] == 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_no_number_spoils_its_row_alone(native: ctypes.CDLL, bad: float, kind: str) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(3, 48), torch.randn(40, 48)
    x[1, 17] = bad
    finite = multiplied(native, x, weight, kind).isfinite()
    assert finite.all(1).tolist() == [True, False, True]
    assert not finite[1].any()


def test_rows_and_outputs_of_zeros_stay_zeros(native: ctypes.CDLL, kind: str) -> None:
    x, weight = torch.zeros(2, 32), torch.randn(32, 32)
    assert not multiplied(native, x, weight, kind).any()
    assert not multiplied(native, torch.randn(2, 32), torch.zeros(32, 32), kind).any()


@pytest.mark.parametrize("stored_as", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(3, 3, 16), (9, 3, 64), (14, 2, 80), (8, 1, 128), (4, 2, 144)])
def test_a_row_attends_to_its_own_prefix(
    native: ctypes.CDLL, heads: int, kv_heads: int, dim: int, stored_as: torch.dtype
) -> None:
    torch.manual_seed(2)
    block_size, blocks, longest = 5, 40, 150
    keys, values = torch.randn(2, blocks, block_size, kv_heads, dim).to(stored_as).unbind(0)
    table = torch.randperm(blocks - 1, dtype=torch.int32)[None, : longest // block_size] + 1
    positions = torch.tensor([0, 3, 4, 5, 15, 16, 31, 32, 77, 149], dtype=torch.int32)
    sequences = torch.zeros(len(positions), dtype=torch.int32)
    model = library.Model(
        kv_type=TYPES[str(stored_as).removeprefix("torch.")],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        block_size=block_size,
        max_len=longest,
    )
    layer = library.Layer(keys=keys.data_ptr(), values=values.data_ptr())
    step = library.Step(
        rows=len(positions),
        table_width=table.shape[1],
        positions=positions.data_ptr(),
        sequences=sequences.data_ptr(),
        tables=table.data_ptr(),
    )
    query, scores = torch.randn(heads, dim), torch.zeros(4, longest + 20)
    flat = [side[table[0].long()].flatten(0, 1).float().transpose(0, 1) for side in (keys, values)]
    group = heads // kv_heads
    for row, position in enumerate(positions.tolist()):
        out = torch.empty(heads, dim)
        for kv_head in range(kv_heads):
            arguments = [query.data_ptr(), out.data_ptr(), scores.data_ptr()]
            native.attend(ctypes.byref(model), ctypes.byref(layer), ctypes.byref(step), row, kv_head, *arguments)
        key, value = (side[:, : position + 1].repeat_interleave(group, 0) for side in flat)
        weights = (torch.einsum("hd,hjd->hj", query, key) / math.sqrt(dim)).softmax(-1)
        torch.testing.assert_close(out, torch.einsum("hj,hjd->hd", weights, value), atol=2e-5, rtol=1e-5)


def test_the_reason_is_told_where_a_step_cannot_be_computed_natively(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require("int8")
    assert problem(SHAPE, "int8") is None
    assert problem(replace(SHAPE, head_dim=24), "int8") == "head_dim 24 is no multiple of 16"
    with monkeypatch.context() as patch:
        patch.setattr(library, "cpu_flags", lambda: library.NEEDS["bfloat16"])
        assert problem(SHAPE, "int8") == "this CPU has no avx512_vnni"
        assert problem(SHAPE, "bfloat16") is None
        library.amx.cache_clear()
        assert not library.amx()
    library.amx.cache_clear()
    for content, cause in ((None, "was not built"), (b"", "file too short")):
        target = tmp_path / "libheadway.so.1"
        if content is not None:
            target.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(build, "TARGET", target)
            library.load.cache_clear()
            assert cause in str(problem(SHAPE, "int8"))
    library.load.cache_clear()


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    require("float32")
    with monkeypatch.context() as patch:
        patch.setattr(build, "digest", lambda: "0123456789abcdef")
        library.load.cache_clear()
        assert "other sources" in str(problem(SHAPE, "float32"))
    library.load.cache_clear()


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no transparent large pages"
)
def test_weights_lie_where_the_kernel_may_use_large_pages() -> None:
    values = torch.arange(1 << 20)
    copied = HugePages().copy(values)
    assert torch.equal(copied, values)
    flags: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first:
            start, end = (int(one, 16) for one in first.split("-"))
            inside = start <= copied.data_ptr() < end
        elif inside and first == "VmFlags:":
            flags = rest
    assert "hg" in flags  # asked for
    assert "sh" not in flags  # shared memory has a switch of its own, which is off nearly everywhere
