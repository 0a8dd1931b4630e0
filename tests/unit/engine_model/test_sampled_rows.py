"""The last layer computes the rows that sample; what the others leave behind for later steps is complete all the same."""

import time
from dataclasses import replace

import pytest
import torch
from native_library import require
from small_decoder import SHAPE
from torch import nn

from headway_engine.core.batch import Batch, Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.model.attention import BACKENDS, StepLayout
from headway_engine.model.config import ModelConfig
from headway_engine.model.native import NativeDecoder
from headway_engine.model.packing import pack
from headway_engine.model.transformer import Decoder, Layer
from headway_engine.runtime.executor import TorchExecutor, allocate_cache

BLOCK, LONGEST = 4, 32
TABLE_BLOCKS = LONGEST // BLOCK
# Tokens of each of three sequences in each step: chunks, decodes beside them, nothing.
STEPS = [(5, 9, 0), (4, 1, 6), (6, 1, 0), (1, 1, 7), (1, 1, 1)]


def decoder(shape: ModelConfig, dtype: torch.dtype) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(shape)
    for name, parameter in model.named_parameters():
        parameter.data = torch.ones_like(parameter) if "norm" in name else torch.randn_like(parameter) / 8
    model.to(dtype).prepare(LONGEST)
    return model


def in_form(form: str) -> Decoder | NativeDecoder:
    engine, _, dtype = form.partition(" ")
    kept = torch.float32 if dtype == "float32" else torch.bfloat16
    model = decoder(SHAPE, kept)
    if engine == "torch":
        return model
    if engine == "packed":
        if not pack(model):
            pytest.skip("this torch cannot pack")
        return model
    require(dtype)
    return NativeDecoder(model, dtype, LONGEST, threads=2)


def sampled_logits(model: Decoder | NativeDecoder, sampling: list[set[int]]) -> dict[tuple[int, int], torch.Tensor]:
    """The logits after each step of `STEPS`, by step and sequence; `sampling` says whose last token samples in each."""
    torch.manual_seed(1)
    tokens = torch.randint(SHAPE.vocab_size, (3, LONGEST))
    cache = allocate_cache(SHAPE, 1 + 3 * TABLE_BLOCKS, BLOCK, model.embed)
    done, found = [0, 0, 0], {}
    for index, (counts, wanted) in enumerate(zip(STEPS, sampling, strict=True)):
        # Decodes come first.
        order = sorted((n for n in range(3) if counts[n]), key=lambda n: counts[n] > 1)
        spans = [(n, done[n], done[n] + counts[n]) for n in order]
        places = [(n, position) for n, start, end in spans for position in range(start, end)]
        rows = [row for row, (n, position) in enumerate(places) if n in wanted and position == done[n] + counts[n] - 1]
        slots = torch.tensor([BLOCK * (1 + n * TABLE_BLOCKS) + position for n, position in places])
        layout = StepLayout(
            query_lens=[end - start for _, start, end in spans],
            context_lens=[end for _, _, end in spans],
            block_tables=[tuple(range(1 + n * TABLE_BLOCKS, 1 + (n + 1) * TABLE_BLOCKS)) for n in order],
            num_decodes=sum(counts[n] == 1 for n in order),
            slots=slots,
            block_size=BLOCK,
            dtype=model.embed.dtype,
        )
        ids, positions = torch.stack([tokens[place] for place in places]), torch.tensor([p for _, p in places])
        with torch.inference_mode():
            if isinstance(model, NativeDecoder):
                logits, _ = model.logits(ids, positions, layout, cache, torch.tensor(rows, dtype=torch.int64))
            else:
                step = BACKENDS["torch"](layout)
                logits = model(ids, positions, step, cache, torch.tensor(rows, dtype=torch.int64))
        assert logits.shape == (len(rows), SHAPE.vocab_size)
        found |= {(index, places[row][0]): one for row, one in zip(rows, logits, strict=True)}
        done = [start + count for start, count in zip(done, counts, strict=True)]
    return found


@pytest.mark.parametrize(
    "form", ["torch float32", "packed float32", "native float32", "native bfloat16", "native int8"]
)
def test_logits_are_those_of_steps_where_everything_samples(form: str) -> None:
    every = sampled_logits(in_form(form), [{0, 1, 2}] * len(STEPS))
    some = sampled_logits(in_form(form), [set(), {1}, {0, 1}, {2}, {0, 1, 2}])
    assert len(every) == 13
    assert some.keys() == {(1, 1), (2, 0), (2, 1), (3, 2), (4, 0), (4, 1), (4, 2)}
    for key, logits in some.items():
        if form.startswith("native"):
            assert torch.equal(logits, every[key])
        else:  # torch sums in an order that depends on the number of rows
            torch.testing.assert_close(logits, every[key], atol=1e-5, rtol=1e-5)


def test_torch_gives_its_last_layer_the_rows_that_sample() -> None:
    model = in_form("torch float32")
    assert isinstance(model, Decoder)
    rows: list[list[int]] = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows[-1].append(len(inputs[0]))

    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.feed_forward.register_forward_pre_hook(note)
    executor = TorchExecutor(model, num_blocks=TABLE_BLOCKS, block_size=BLOCK)
    greedy = SamplingParams(temperature=0.0)
    for start, count, sample in ((0, 5, False), (5, 6, True), (11, 1, True)):
        rows.append([])
        chunk = Chunk(0, tuple(range(count)), start, tuple(range(1, TABLE_BLOCKS)), sample, greedy, 0, 0)
        assert len(executor.run(Batch((chunk,)))) == sample
    assert rows == [[5, 0], [6, 1], [1, 1]]


def test_a_chunk_that_samples_nothing_costs_less_than_half_in_a_wide_last_layer() -> None:
    require("float32")
    shape = replace(SHAPE, num_layers=1, intermediate_size=8192)
    model = NativeDecoder(decoder(shape, torch.float32), "float32", LONGEST, threads=1)
    cache = allocate_cache(shape, 1 + TABLE_BLOCKS, BLOCK, model.embed)
    table = tuple(range(1, 1 + TABLE_BLOCKS))
    layout = StepLayout([LONGEST], [LONGEST], [table], 0, torch.tensor([]), BLOCK, torch.float32)
    every = torch.arange(LONGEST)

    def seconds(sampled: torch.Tensor) -> float:
        """Of the CPU, the least of some: 99 of 100 products are the feed-forward network's."""
        taken = []
        for _ in range(5):
            began = time.thread_time()
            model.logits(every, every, layout, cache, sampled)
            taken.append(time.thread_time() - began)
        return min(taken)

    assert seconds(every[:0]) < seconds(every) / 2
