"""Each kernel against a float32 reference, on shapes that fit no tile: odd widths, odd lengths, odd numbers of heads."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it

if not torch.cuda.is_available():
    pytest.skip("the kernels need a CUDA device", allow_module_level=True)

from headway_engine.core.request import SamplingParams
from headway_engine.kernels import decode_attention as decoding
from headway_engine.kernels import launch as launching
from headway_engine.kernels import narrow, whole_attention
from headway_engine.kernels import prefill_attention as prefilling
from headway_engine.kernels.activation import silu_mul
from headway_engine.kernels.decode_attention import SplitPlan, decode_attention, plan_splits
from headway_engine.kernels.norm import add_rms_norm
from headway_engine.kernels.prefill_attention import cut_tiles, prefill_attention
from headway_engine.kernels.rope import HeadNorms, Rotation, Tokens, rotate_and_store
from headway_engine.kernels.rows import HEADER, embed_rows
from headway_engine.kernels.sampling import Sampled, sample_rows
from headway_engine.kernels.skinny import Gain, skinny_linear
from headway_engine.model.sampler import Draw, sample
from headway_engine.runtime.cuda_rows import float_bits, signed_seed

pytestmark = pytest.mark.gpu

BF16 = torch.bfloat16
BLOCK_SIZE = 16
MAX_LEN = 4096
ATTENTION_SHAPES = [(9, 3, 64), (16, 8, 128), (32, 8, 128), (7, 1, 128), (5, 5, 32)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def randn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(BF16)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-2) -> None:
    error = ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()
    assert error < tolerance  # false for NaN too


# What an A100 and a L40S have.
@pytest.mark.parametrize("available", [166_912, 101_376])
def test_kernels_fit_a_gpu_with_less_shared_memory(available: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []

    def compiled(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        wanted.append(kernel.warmup(*arguments, grid=grid, **options).metadata.shared)

    monkeypatch.setattr(launching, "shared_memory", lambda: available)
    for module in (narrow, decoding, prefilling):
        monkeypatch.setattr(module, "launch", compiled)
    for rows in (8, 32, 64, 128):
        narrow.narrow_linear(randn(rows, 576), randn(960, 576))
        narrow.narrow_linear(randn(rows, 1024), randn(4096, 1024))
        narrow.narrow_gated(randn(rows, 4096), randn(28672, 4096))
    for heads, kv_heads, dim in ((32, 8, 128), (9, 3, 64), (2, 1, 256)):
        for count in (1, 4, 16, 64, 256):
            paged = Paged(heads, kv_heads, dim, lengths=[20] * count)
            qkv, out = randn(count, heads + 2 * kv_heads, dim), randn(count, heads, dim)
            tokens = paged.tokens([19] * count, list(range(count)))
            decode_attention(qkv, paged.cache, tokens, out, plan_splits(count, kv_heads))
        tiles = torch.zeros(1, 4, dtype=torch.int64, device="cuda")
        prefill_attention(qkv, paged.cache, tokens, tiles, out)
    assert 0 < max(wanted) <= available


@pytest.mark.parametrize("size", [72, 576, 1000, 4096])
def test_residual_and_norm_are_those_of_the_reference(size: int) -> None:
    h, delta, weight = randn(5, size), randn(5, size), randn(size)
    total = (h.float() + delta.float()).to(BF16)
    out = add_rms_norm(h, delta, weight, 1e-5)
    assert torch.equal(h, total)
    assert_close(out, F.rms_norm(total.float(), (size,), weight.float(), 1e-5))
    assert_close(add_rms_norm(h, None, weight, 1e-5), F.rms_norm(total.float(), (size,), weight.float(), 1e-5))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_what_comes_in_parts_is_added_up(count: int) -> None:
    h, weight, parts = randn(5, 1000), randn(1000), torch.randn(count, 5, 1000, device="cuda")
    total = (h.float() + parts.sum(0)).to(BF16)
    out = add_rms_norm(h, parts, weight, 1e-5)
    assert_close(h, total, 1e-3)
    assert_close(out, F.rms_norm(total.float(), (1000,), weight.float(), 1e-5))
    gate, up = parts.sum(0).chunk(2, dim=1)
    assert_close(silu_mul(parts, BF16), F.silu(gate) * up)


@pytest.mark.parametrize("size", [100, 1536, 3072, 14336])
@pytest.mark.parametrize("count", [3, 300])
def test_gated_activation_is_that_of_the_reference(size: int, count: int) -> None:
    x = randn(count, 2 * size)
    assert_close(silu_mul(x), F.silu(x[:, :size].float()) * x[:, size:].float())


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 72), (960, 576), (1001, 1032), (4096, 14336), (49152, 576)])
def test_skinny_products_are_those_of_the_reference(outputs: int, inputs: int) -> None:
    x, gain, bias = randn(1, inputs), randn(inputs), randn(outputs)
    weight = randn(2 * outputs, inputs, scale=inputs**-0.5)
    normed = F.rms_norm(x.float(), (inputs,), gain.float(), 1e-5)
    plain = x.float() @ weight[:outputs].float().T
    product = normed @ weight.float().T
    norm = Gain(gain, 1e-5)
    assert_close(skinny_linear(x, weight[:outputs]), plain)
    assert_close(skinny_linear(x, weight[:outputs], gain=norm, bias=bias), product[:, :outputs] + bias.float())
    gated = F.silu(product[:, :outputs]) * product[:, outputs:]
    assert_close(skinny_linear(x, weight, gain=norm, gated=True), gated, 2e-2)
    h = randn(1, outputs)
    wanted = h.float() + plain
    assert_close(skinny_linear(x, weight[:outputs], add_to=h), wanted)
    assert_close(h, wanted)


@pytest.mark.parametrize("rows", [2, 7, 16, 17, 33, 64, 65, 100, 128])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (960, 576), (1024, 3072), (4096, 14336), (25600, 192)])
def test_products_of_few_rows_are_those_of_the_reference(rows: int, outputs: int, inputs: int) -> None:
    x, weight = randn(rows, inputs), randn(outputs, inputs, scale=inputs**-0.5)
    wanted = x.float() @ weight.float().T
    assert narrow.fits(weight)
    product = narrow.narrow_linear(x, weight).sum(0)
    assert_close(product, wanted, 1e-3 if product.dtype == torch.float32 else 1e-2)
    if outputs // 2 % (128 if rows > 64 else 64) == 0:
        gated = F.silu(wanted[:, : outputs // 2]) * wanted[:, outputs // 2 :]
        assert_close(narrow.narrow_gated(x, weight), gated)
    again = [
        narrow.narrow_linear(x, weight).sum(0) for _ in range(3)
    ]  # each may begin before the one in front has ended
    assert all(torch.equal(again[0], other) for other in again)


class Paged:
    """Sequences of given lengths in a shuffled paged cache, and the reference's view of them."""

    def __init__(self, heads: int, kv_heads: int, dim: int, lengths: list[int]) -> None:
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        blocks = [-(-length // BLOCK_SIZE) for length in lengths]
        order = (torch.randperm(sum(blocks)) + 1).tolist()
        tables = torch.zeros(len(lengths) + 1, MAX_LEN // BLOCK_SIZE, dtype=torch.int64)
        for row, count in enumerate(blocks):
            tables[row, :count] = torch.tensor([order.pop() for _ in range(count)])
        self.tables = tables.cuda()
        shape = (sum(blocks) + 1, BLOCK_SIZE, kv_heads, dim)
        self.cache = randn(*shape), randn(*shape)
        angles = torch.outer(torch.arange(MAX_LEN), 10000 ** (-torch.arange(dim // 2) / (dim // 2))).cuda()
        self.rotation = Rotation(angles.cos(), angles.sin())

    def tokens(self, positions: list[int], rows: list[int]) -> Tokens:
        return Tokens(torch.tensor(positions).cuda(), torch.tensor(rows).cuda(), self.tables, BLOCK_SIZE)

    def context(self, row: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.arange(length, device="cuda")
        block = self.tables[row][at // BLOCK_SIZE]
        keys, values = (side[block, at % BLOCK_SIZE].float() for side in self.cache)
        group = self.heads // self.kv_heads
        return keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)

    def attend(self, query: torch.Tensor, row: int, start: int) -> torch.Tensor:
        """The reference: queries `[count, heads, dim]` at positions from `start` on."""
        count = query.shape[0]
        keys, values = self.context(row, start + count)
        scores = torch.einsum("qhd,thd->hqt", query.float(), keys) / math.sqrt(self.dim)
        future = torch.ones(count, start + count, dtype=torch.bool, device="cuda").triu(start + 1)
        return torch.einsum("hqt,thd->qhd", scores.masked_fill(future, -math.inf).softmax(-1), values)


@pytest.mark.parametrize("shape", ATTENTION_SHAPES)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("count", "splits"), [(3, 0), (3, 1), (3, 3), (70, 0), (70, 1), (70, 3), (300, 0)])
def test_rotation_rotates_in_place_and_fills_the_slots(
    shape: tuple[int, int, int], norm: bool, count: int, splits: int
) -> None:
    heads, kv_heads, dim = shape
    paged = Paged(*shape, lengths=[200] * count)
    positions = torch.randint(0, 200, (count,)).tolist()
    qkv = randn(count, heads + 2 * kv_heads, dim)
    norms = HeadNorms(randn(dim), randn(dim), 1e-6) if norm else None
    wanted = qkv.float()
    parts = bias = None
    if splits:
        parts, bias = torch.randn(splits, *qkv.shape, device="cuda"), randn(*qkv.shape[1:])
        wanted = parts.sum(0) + bias.float()
    if norms is not None:
        wanted[:, :heads] = F.rms_norm(wanted[:, :heads], (dim,), norms.query.float(), 1e-6)
        wanted[:, heads:-kv_heads] = F.rms_norm(wanted[:, heads:-kv_heads], (dim,), norms.key.float(), 1e-6)
    cos, sin = (side[positions].unsqueeze(1) for side in (paged.rotation.cos, paged.rotation.sin))
    a, b = wanted[:, :-kv_heads].chunk(2, dim=-1)
    wanted = torch.cat((torch.cat((a * cos - b * sin, b * cos + a * sin), -1), wanted[:, -kv_heads:]), 1)
    rotate_and_store(qkv, paged.cache, paged.tokens(positions, list(range(count))), paged.rotation, norms, parts, bias)
    assert_close(qkv, wanted)
    for row, position in enumerate(positions):
        slot = int(paged.tables[row, position // BLOCK_SIZE]), position % BLOCK_SIZE
        assert torch.equal(paged.cache[0][slot], qkv[row, heads : heads + kv_heads])
        assert torch.equal(paged.cache[1][slot], qkv[row, heads + kv_heads :])


PLANS = [
    SplitPlan(1, 1024, 64),
    SplitPlan(4, 64, 64),
    SplitPlan(64, 32, 32),
    plan_splits(1, 8),
    plan_splits(100, 8),
    None,
]


@pytest.mark.parametrize("shape", ATTENTION_SHAPES)
@pytest.mark.parametrize("plan", PLANS)
def test_decode_attention_is_that_of_the_reference(shape: tuple[int, int, int], plan: SplitPlan | None) -> None:
    heads, kv_heads, dim = shape
    lengths = [1, 15, 16, 17, 63, 64, 65, 130, 577, 1025, 3900]
    paged = Paged(*shape, lengths=lengths)
    qkv = randn(len(lengths), heads + 2 * kv_heads, dim)
    out = torch.full((len(lengths), heads, dim), math.nan, device="cuda", dtype=BF16)
    tokens = paged.tokens([length - 1 for length in lengths], list(range(len(lengths))))
    decode_attention(qkv, paged.cache, tokens, out, plan or plan_splits(len(lengths), kv_heads))
    for row, length in enumerate(lengths):
        assert_close(out[row : row + 1], paged.attend(qkv[row : row + 1, :heads], row, length - 1))
    some = torch.full_like(out, math.nan)
    plan = plan or plan_splits(len(lengths), kv_heads)
    decode_attention(qkv, paged.cache, tokens, some, plan, decodes=torch.tensor([7], device="cuda"))
    assert torch.equal(some[:7], out[:7])
    assert some[7:].isnan().all()


@pytest.mark.parametrize("shape", [(9, 3, 64), (16, 8, 128), (32, 8, 128)])
@pytest.mark.parametrize("length", [1, 130, 1000, 3100])
@pytest.mark.parametrize("flash", [False, True])
def test_attention_of_whole_prompts_is_that_of_the_reference(
    shape: tuple[int, int, int], length: int, flash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, kv_heads, dim = shape
    if not flash:
        monkeypatch.setattr(whole_attention, "flash_attn_func", None)
    elif whole_attention.library(dim, BF16) != "FlashAttention-3":
        pytest.skip(whole_attention.library(dim, BF16))
    paged = Paged(*shape, lengths=[length])
    qkv = randn(length + 5, heads + 2 * kv_heads, dim)[:length]
    keys, values = qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    for token in range(length):
        slot = int(paged.tables[0, token // BLOCK_SIZE]), token % BLOCK_SIZE
        paged.cache[0][slot], paged.cache[1][slot] = keys[token], values[token]
    out = whole_attention.whole_prompt_attention(qkv, heads)
    assert_close(out, paged.attend(qkv[:, :heads], 0, 0))


@pytest.mark.parametrize("shape", ATTENTION_SHAPES)
def test_prefill_attention_is_that_of_the_reference(shape: tuple[int, int, int]) -> None:
    heads, kv_heads, dim = shape
    chunks = [(0, 0, 1), (1, 0, 129), (2, 70, 30), (3, 16, 1), (4, 0, 64), (5, 1000, 500), (6, 2047, 257)]
    paged = Paged(*shape, lengths=[start + length for _, start, length in chunks])
    positions = [start + offset for _, start, length in chunks for offset in range(length)]
    rows = [row for row, _, length in chunks for _ in range(length)]
    qkv = randn(len(rows), heads + 2 * kv_heads, dim)
    out = torch.full((len(rows), heads, dim), math.nan, device="cuda", dtype=BF16)
    firsts = [rows.index(row) for row, _, _ in chunks]
    tiles = cut_tiles([(first, *chunk) for first, chunk in zip(firsts, chunks, strict=True)])
    records = torch.tensor([*tiles, (0, 0, 0, 0)]).cuda()
    prefill_attention(qkv, paged.cache, paged.tokens(positions, rows), records, out)
    for first, (row, start, length) in zip(firsts, chunks, strict=True):
        new = slice(first, first + length)
        assert_close(out[new], paged.attend(qkv[new, :heads], row, start))


class Rows:
    """A row table with sampling parameters, and what sampling writes to."""

    def __init__(self, params: list[SamplingParams], seeds: list[int], counts: list[int]) -> None:
        size = len(params)
        table = torch.zeros(size + 1, HEADER + 4, dtype=torch.int64)
        for row, (sampling, seed, count) in enumerate(zip(params, seeds, counts, strict=True)):
            floats = float_bits(sampling.temperature), float_bits(sampling.top_p)
            table[row, :7] = torch.tensor([0, 0, count, signed_seed(seed), *floats, sampling.top_k])
        self.table = table.cuda()
        self.out = torch.full((4, size), -7, device="cuda")
        self.step = torch.tensor([5]).cuda()
        self.positions = torch.arange(100, 100 + size).cuda()

    def sample(self, logits: torch.Tensor) -> list[int]:
        index = torch.arange(len(logits)).cuda()
        sample_rows(logits, Sampled(index, index, self.positions, self.table, self.out, self.step))
        tokens: list[int] = self.out[5 % 4].tolist()
        return tokens


@pytest.mark.parametrize("vocabulary", [500, 4096, 49152, 151936])
def test_greedy_and_plain_rows_draw_what_the_torch_sampler_draws(vocabulary: int) -> None:
    params = [SamplingParams(temperature=t) for t in (0.0, 0.6, 1.0, 1.7)] * 8
    seeds, counts = [row << 59 for row in range(32)], list(range(32))
    logits = randn(32, vocabulary, scale=3.0)
    rows = Rows(params, seeds, counts)
    draws = [Draw(*drawn) for drawn in zip(params, seeds, counts, strict=True)]
    found, wanted = rows.sample(logits), sample(logits.float(), draws)
    # The sums are taken in another order: a number that falls on a border may pick the neighbour.
    assert sum(a != b for a, b in zip(found, wanted, strict=True)) <= 1
    assert found[::4] == list(wanted[::4])
    assert rows.table[:32, :3].tolist() == [[token, 101 + row, row + 1] for row, token in enumerate(found)]
    assert not rows.table[32].any()


def test_rows_with_top_k_and_top_p_draw_from_what_is_kept_and_in_proportion() -> None:
    logits = randn(1, 3000, scale=2.0).expand(512, -1).contiguous()
    for top_k, top_p in ((5, 1.0), (0, 0.5), (40, 0.8)):
        params = [SamplingParams(temperature=0.9, top_k=top_k, top_p=top_p)] * 512
        tokens = Rows(params, list(range(512)), [3] * 512).sample(logits)
        weights = (logits[0].float() / 0.9).softmax(0)
        if top_k:
            weights = weights * (logits[0] >= logits[0].topk(top_k).values[-1])
        ranked = weights.sort(descending=True).values
        smallest = ranked[ranked.cumsum(0) - ranked < top_p * weights.sum()][-1]
        weights = weights * (weights >= smallest)
        assert (weights[tokens] > 0).all()
        best = int(weights.argmax())
        share = float(weights[best] / weights.sum())
        spread = 5 * math.sqrt(share * (1 - share) / 512)
        assert abs(tokens.count(best) / 512 - share) < spread


def test_a_row_that_is_not_finite_fails_alone() -> None:
    logits = randn(4, 5000)
    logits[1, 4999], logits[2, 0] = math.nan, math.inf
    rows = Rows([SamplingParams(temperature=0.5)] * 4, [1, 2, 3, 4], [0] * 4)
    tokens = rows.sample(logits)
    assert [token < 0 for token in tokens] == [False, True, True, False]
    assert (rows.table[:, 0] >= 0).all()


def test_embedding_reads_the_rows_and_counts_the_step() -> None:
    table = torch.zeros(4, HEADER + 2, dtype=torch.int64)
    table[:, 0], table[:, 1] = torch.tensor([7, 8, 9, 0]), torch.tensor([70, 80, 90, 0])
    embedding, positions, step = randn(20, 1100), torch.zeros(3, dtype=torch.int64).cuda(), torch.tensor([4]).cuda()
    h = embed_rows(table.cuda(), torch.tensor([2, 0, 3]).cuda(), embedding, positions, step)
    assert torch.equal(h, embedding[[9, 7, 0]])
    assert positions.tolist() == [90, 70, 0]
    assert step.tolist() == [5]
