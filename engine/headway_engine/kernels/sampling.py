"""Draws the next tokens on the device and writes them where the next step looks for them.

    limit   a row with top-k or top-p: bisect the bits of the logits for the smallest one that is kept
    chunks  each chunk of the vocabulary: its largest logit and the sum of its weights exp((x - max) / temperature)
    pick    a row: the chunk and then the token where the cumulated weights pass the row's random number

Greedy rows take the largest logit, the first one of equals. The others use the number that `model/sampler.py` would: hashed
from the seed and the count of sampled tokens, so a request draws the same tokens whatever shares its batch. Logits that
equal the smallest kept one are all kept, where `model/sampler.py` keeps exactly k. A row with a logit that is not finite
gets the token -1.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from headway_engine.kernels.launch import launch
from headway_engine.kernels.overlap import LAUNCH, let_next_start, wait_for_previous

CHUNK = 4096
_LOG2E = tl.constexpr(1.4426950408889634)
# Of a row that keeps all its tokens.
_NO_LIMIT = tl.constexpr(-2147483648)


@triton.jit
def _ordered(x):
    """float32 to int32 of the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _limit_kernel(logits, row_ids, table, stride, limits, vocabulary, UNUSED_BITS: tl.constexpr, CHUNK: tl.constexpr):
    let_next_start()
    wait_for_previous()
    index = tl.program_id(0).to(tl.int64)
    entry = table + tl.load(row_ids + index) * stride
    temperature = tl.load(entry + 4).to(tl.int32).to(tl.float32, bitcast=True)
    top_p = tl.load(entry + 5).to(tl.int32).to(tl.float32, bitcast=True)
    top_k = tl.load(entry + 6)
    by_k = (top_k > 1) & (top_k < vocabulary)
    by_p = top_p < 1.0
    if (temperature == 0.0) | (top_k == 1) | ((by_k == 0) & (by_p == 0)):
        tl.store(limits + index, _NO_LIMIT)
        return
    row = logits + index * vocabulary
    column = tl.arange(0, CHUNK)
    best = tl.full((CHUNK,), float("-inf"), tl.float32)
    for first in tl.range(0, vocabulary, CHUNK):
        x = tl.load(row + first + column, mask=first + column < vocabulary, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, x)
    largest = tl.max(best, 0)

    # The largest value that at least top_k logits reach: one bit a pass, from the sign down.
    floor = tl.full((), -2147483648, tl.int64)
    if by_k:
        for bit in tl.range(0, 32 - UNUSED_BITS):
            trial = floor + (tl.full((), 1, tl.int64) << (31 - bit))
            reached = tl.zeros((CHUNK,), tl.int32)
            for first in tl.range(0, vocabulary, CHUNK):
                inside = first + column < vocabulary
                x = tl.load(row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
                reached += (inside & (_ordered(x) >= trial)).to(tl.int32)
            floor = tl.where(tl.sum(reached, 0) >= top_k, trial, floor)
    # The largest value whose followers hold top_p of the mass that top_k left.
    if by_p:
        mass = tl.zeros((CHUNK,), tl.float32)
        for first in tl.range(0, vocabulary, CHUNK):
            inside = first + column < vocabulary
            x = tl.load(row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
            mass += tl.where(inside & (_ordered(x) >= floor), tl.exp((x - largest) / temperature), 0.0)
        wanted = tl.sum(mass, 0) * top_p
        cut = tl.full((), -2147483648, tl.int64)
        for bit in tl.range(0, 32 - UNUSED_BITS):
            trial = cut + (tl.full((), 1, tl.int64) << (31 - bit))
            held = tl.zeros((CHUNK,), tl.float32)
            for first in tl.range(0, vocabulary, CHUNK):
                inside = first + column < vocabulary
                x = tl.load(row + first + column, mask=inside, other=float("-inf")).to(tl.float32)
                kept = inside & (_ordered(x) >= trial) & (_ordered(x) >= floor)
                held += tl.where(kept, tl.exp((x - largest) / temperature), 0.0)
            cut = tl.where(tl.sum(held, 0) >= wanted, trial, cut)
        floor = tl.maximum(floor, cut)
    # Rounding of the sums must not cut off the best token.
    tl.store(limits + index, tl.minimum(floor, _ordered(largest).to(tl.int64)).to(tl.int32))


@triton.jit
def _chunks_kernel(
    logits, row_ids, table, stride, limits, maxima, arguments, sums, vocabulary, chunks, CHUNK: tl.constexpr
):
    let_next_start()
    wait_for_previous()
    index = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    temperature = tl.load(table + tl.load(row_ids + index) * stride + 4).to(tl.int32).to(tl.float32, bitcast=True)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = column < vocabulary
    x = tl.load(logits + index * vocabulary + column, mask=inside, other=float("-inf")).to(tl.float32)
    # NaN compares false with everything, so this finds it too.
    largest = tl.max(x, 0)
    wrong = inside & ((tl.abs(x) < float("inf")) == 0)
    first = tl.min(tl.where(wrong, -1, tl.where(x == largest, column, vocabulary)), 0)
    place = index * chunks + chunk
    tl.store(maxima + place, largest)
    tl.store(arguments + place, first)
    if temperature > 0.0:
        # Beyond the vocabulary x is minus infinity, whose weight is zero.
        weight = tl.exp2((x - largest) * (_LOG2E / temperature))
        limit = tl.load(limits + index)
        if limit > _NO_LIMIT:
            weight = tl.where(_ordered(x) >= limit, weight, 0.0)
        tl.store(sums + place, tl.sum(weight, 0))


@triton.jit
def _uniform(seed, count):
    """A number in [0, 1): splitmix64, as `model/sampler.py` has it, to 24 bits."""
    x = seed.to(tl.uint64) * 0xD1342543DE82EF95 + (count + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    return (x >> 40).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _pick_kernel(
    logits,
    row_ids,
    sampled,
    positions,
    table,
    stride,
    limits,
    maxima,
    arguments,
    sums,
    out,
    step,
    vocabulary,
    chunks,
    out_slots,
    out_stride,
    padding_row,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    let_next_start()
    wait_for_previous()
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(row_ids + index)
    entry = table + row * stride
    temperature = tl.load(entry + 4).to(tl.int32).to(tl.float32, bitcast=True)
    top_k = tl.load(entry + 6)
    chunk = tl.arange(0, CHUNKS)
    exists = chunk < chunks
    place = index * chunks + chunk
    largest_of = tl.load(maxima + place, mask=exists, other=float("-inf"))
    argument_of = tl.load(arguments + place, mask=exists, other=0)
    largest = tl.max(largest_of, 0)
    bad = tl.min(argument_of, 0) < 0
    best = tl.min(tl.where(exists & (largest_of == largest), argument_of, vocabulary), 0)
    token = best.to(tl.int64)
    count = tl.load(entry + 2)
    if (temperature > 0.0) & (top_k != 1) & (bad == 0):
        weight_of = tl.where(exists, tl.load(sums + place, mask=exists, other=0.0), 0.0)
        factor = _LOG2E / temperature
        weight_of = weight_of * tl.exp2((largest_of - largest) * factor)
        cumulated = tl.cumsum(weight_of, 0)
        target = _uniform(tl.load(entry + 3), count) * tl.sum(weight_of, 0)
        passed = tl.sum((exists & (cumulated <= target)).to(tl.int32), 0)
        # Rounding may leave the target at the very end: then it is the last chunk with any weight.
        last = tl.max(tl.where(weight_of > 0.0, chunk, 0), 0)
        chosen = tl.minimum(passed, last)
        before = tl.sum(tl.where(chunk < chosen, weight_of, 0.0), 0)
        column = chosen * CHUNK + tl.arange(0, CHUNK)
        inside = column < vocabulary
        x = tl.load(logits + index * vocabulary + column, mask=inside, other=float("-inf")).to(tl.float32)
        kept = inside & (_ordered(x) >= tl.load(limits + index))
        weight = tl.where(kept, tl.exp2((x - largest) * factor), 0.0)
        over = (tl.cumsum(weight, 0) > target - before) & (weight > 0.0)
        first = tl.min(tl.where(over, column, vocabulary), 0)
        last_kept = tl.max(tl.where(weight > 0.0, column, 0), 0)
        token = tl.minimum(first, last_kept).to(tl.int64)
    slot = tl.load(step) % out_slots
    tl.store(out + slot * out_stride + index, tl.where(bad, -1, token))
    if row != padding_row:
        # A failed row may already be part of the next step: token 0 keeps that step within the vocabulary.
        tl.store(entry, tl.where(bad, 0, token))
        tl.store(entry + 1, tl.load(positions + tl.load(sampled + index)) + 1)
        tl.store(entry + 2, count + 1)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Which rows are sampled, and where the tokens go.

    Attributes:
        row_ids: int64 `[rows]`, rows of the table.
        flat: int64 `[rows]`, index of the sampled token among the tokens of the launch.
        positions: int64 `[tokens]` of the launch.
        table: the row table; token, position and count of the sampled rows are moved on.
        out: int64 `[slots, rows or more]`; slot `step % slots` takes the tokens.
        step: int64 `[1]`.
    """

    row_ids: torch.Tensor
    flat: torch.Tensor
    positions: torch.Tensor
    table: torch.Tensor
    out: torch.Tensor
    step: torch.Tensor


def sample_rows(logits: torch.Tensor, rows: Sampled) -> None:
    """Draw the next token of each row of `logits`, `[rows, vocabulary]`, contiguous; -1 where one is not finite."""
    count, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, CHUNK)
    device = logits.device
    limits = torch.empty(count, dtype=torch.int32, device=device)
    maxima = torch.empty(count, chunks, dtype=torch.float32, device=device)
    arguments = torch.empty(count, chunks, dtype=torch.int32, device=device)
    sums = torch.empty(count, chunks, dtype=torch.float32, device=device)
    table, stride = rows.table, rows.table.stride(0)
    # The low half of a float32 that was a bfloat16 is empty.
    unused = 16 if logits.dtype == torch.bfloat16 else 0
    launch(
        _limit_kernel,
        (count,),
        logits,
        rows.row_ids,
        table,
        stride,
        limits,
        vocabulary,
        UNUSED_BITS=unused,
        CHUNK=CHUNK,
        num_warps=8,
        **LAUNCH,
    )
    launch(
        _chunks_kernel,
        (count, chunks),
        logits, rows.row_ids, table, stride, limits, maxima, arguments, sums, vocabulary, chunks, CHUNK=CHUNK, num_warps=8, **LAUNCH
    )  # fmt: skip
    launch(
        _pick_kernel,
        (count,),
        logits,
        rows.row_ids,
        rows.flat,
        rows.positions,
        table,
        stride,
        limits,
        maxima,
        arguments,
        sums,
        rows.out,
        rows.step,
        vocabulary,
        chunks,
        rows.out.shape[0],
        rows.out.stride(0),
        table.shape[0] - 1,
        CHUNKS=triton.next_power_of_2(chunks),
        CHUNK=CHUNK,
        num_warps=8,
        **LAUNCH,
    )
