"""Logits of our decoder, loaded from safetensors by our own loader, against transformers with the same random weights.

Every way in which the engine computes a token goes through the same comparison: a whole prompt, chunks of it, decodes, and
mixed batches, over block tables scattered through the cache. The reference computes each sequence alone and whole,
without a cache. On the CPU that is the C library; torch's decoder, which serves where the library does not, takes the two
plans that have everything.
"""

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from native_library import require
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from headway_engine.core.batch import Batch, Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.model import native
from headway_engine.model.sampler import Draw, Likeliest
from headway_engine.runtime import executor as executor_module
from headway_engine.runtime import loading
from headway_engine.runtime.config import EngineConfig

VOCABULARY, BLOCK, NUM_BLOCKS = 96, 4, 400
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
}
# The original context is short, so that a test's positions turn frequencies of all three kinds: kept, blended, slowed.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}
MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama without grouped heads": LlamaConfig(**{**SMALL, "num_key_value_heads": 4}),
    "llama with one kv head": LlamaConfig(**{**SMALL, "num_key_value_heads": 1}),
    "llama 3 rope": LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "llama linear rope": LlamaConfig(**SMALL, rope_parameters=LINEAR),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=False),
    "qwen2 tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=False),
    "qwen3 tied": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
}

# A step: (sequence, how many of its tokens are computed next).
Step = Sequence[tuple[int, int]]
# A plan: the lengths of the sequences, and the steps that compute them all.
Plan = tuple[Sequence[int], Sequence[Step]]
PLANS: dict[str, Plan] = {
    "one token": ([1], [[(0, 1)]]),
    "exactly one block": ([BLOCK], [[(0, BLOCK)]]),
    "one block and a token": ([BLOCK + 1], [[(0, BLOCK + 1)]]),
    "a whole prompt": ([61], [[(0, 61)]]),
    "odd chunks": ([61], [[(0, 3)], [(0, 1)], [(0, 4)], [(0, 5)], [(0, 31)], [(0, 17)]]),
    "a prompt, then decodes across block borders": ([70], [[(0, 61)], *([[(0, 1)]] * 9)]),
    "decodes from the first token": ([10], [[(0, 1)]] * 10),
    "several prompts in one step": ([7, 1, 23, 4], [[(0, 7), (1, 1), (2, 23), (3, 4)]]),
    # Decodes come first in a batch; contexts differ enough for several decode groups.
    "decodes, first chunks and later chunks mixed": (
        [90, 12, 45, 30, 6],
        [
            [(0, 80), (1, 10)],
            [(0, 1), (1, 1), (2, 19)],
            [(0, 1), (1, 1), (2, 25), (3, 13)],
            [(0, 1), (2, 1), (3, 16), (4, 5)],
            [(3, 1), (4, 1), (0, 7)],
        ],
    ),
}


class Checkpoint:
    """A model with random weights, saved as a user's directory is."""

    def __init__(self, config: PreTrainedConfig, folder: Path) -> None:
        torch.manual_seed(11)
        self.path = folder
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        for name, parameter in model.named_parameters():
            # Fresh biases are zeros and fresh norms ones, and fresh matrices so small that attention looks nowhere.
            if name.endswith("norm.weight"):
                parameter.data.normal_(1.0, 0.3)
            else:
                parameter.data.normal_(0.0, 0.5 if name.endswith("bias") else 0.2)
        model.save_pretrained(folder)
        Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))

    def expected(
        self, sequences: Sequence[Sequence[int]], dtype: torch.dtype, weights: torch.dtype
    ) -> list[torch.Tensor]:
        """Reference logits after each token of each sequence, computed in `dtype` on weights rounded to `weights`."""
        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.to(weights).to(dtype)
        with torch.inference_mode():
            return [model(torch.tensor([tokens]), use_cache=False).logits[0].float() for tokens in sequences]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    made: dict[str, Checkpoint] = {}

    def make(name: str) -> Checkpoint:
        if name not in made:
            made[name] = Checkpoint(MODELS[name], tmp_path_factory.mktemp("model"))
        return made[name]

    return make


def sequences_of(lengths: Sequence[int]) -> list[list[int]]:
    chosen = random.Random(5)
    return [[chosen.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


def computed(
    path: Path,
    dtype: torch.dtype,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[int, int, torch.Tensor]]:
    """(sequence, position, logits) of the last token of each chunk, through our loader and our executor."""
    rows: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, draws: Sequence[Draw], _: Likeliest | None) -> tuple[int, ...]:
        assert logits.dtype is torch.float32
        assert len(logits) == len(draws)
        rows.extend(logits.unbind(0))
        return (0,) * len(draws)

    monkeypatch.setattr(executor_module, "sample", keep)
    name = str(dtype).removeprefix("torch.")
    settings = EngineConfig(path, device="cpu", dtype=name, block_size=BLOCK, kv_cache_memory_mib=4, threads=1)
    executor = loading.load(settings).executor
    assert executor.num_blocks >= NUM_BLOCKS
    blocks = random.Random(7).sample(range(1, NUM_BLOCKS), NUM_BLOCKS - 1)
    sequences = sequences_of(plan[0])
    tables = [tuple(blocks.pop() for _ in range(-(-len(tokens) // BLOCK))) for tokens in sequences]
    done = [0] * len(sequences)
    where: list[tuple[int, int]] = []
    for step in plan[1]:
        chunks = []
        for index, count in step:
            start = done[index]
            done[index] = end = start + count
            tokens = tuple(sequences[index][start:end])
            chunks.append(Chunk(index, tokens, start, tables[index], True, SamplingParams(), 0, 0))
            where.append((index, end - 1))
        executor.run(Batch(tuple(chunks)))
    assert done == [len(tokens) for tokens in sequences]
    return [(index, position, row) for (index, position), row in zip(where, rows, strict=True)]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "problem", lambda *_: "not asked for")


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("model", MODELS)
def test_float32_logits_equal_those_of_transformers(
    model: str,
    plan: Plan,
    checkpoint: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("float32")
    check_float32(checkpoint(model), plan, monkeypatch)


@pytest.mark.parametrize("plan", ["odd chunks", "decodes, first chunks and later chunks mixed"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("by_torch")
def test_float32_logits_of_torch_equal_those_of_transformers(
    model: str, plan: str, checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_float32(checkpoint(model), PLANS[plan], monkeypatch)


def check_float32(source: Checkpoint, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = source.expected(sequences_of(plan[0]), torch.float32, torch.float32)
    for index, position, row in computed(source.path, torch.float32, plan, monkeypatch):
        # The logits have a standard deviation above 1; rounding alone differs, by the order of sums.
        assert expected[index][position].std() > 1
        torch.testing.assert_close(row, expected[index][position], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_logits_are_as_near_to_float32_as_those_of_transformers(
    model: str, checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("bfloat16")
    check_bfloat16(checkpoint(model), monkeypatch)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("by_torch")
def test_bfloat16_logits_of_torch_are_as_near_to_float32_as_those_of_transformers(
    model: str, checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bfloat16(checkpoint(model), monkeypatch)


def check_bfloat16(source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    # The truth is float32 on the weights that bfloat16 keeps; both bfloat16 computations err, in different places.
    plan = PLANS["decodes, first chunks and later chunks mixed"]
    sequences = sequences_of(plan[0])
    theirs = source.expected(sequences, torch.bfloat16, torch.bfloat16)
    truth = source.expected(sequences, torch.float32, torch.bfloat16)
    rows = computed(source.path, torch.bfloat16, plan, monkeypatch)
    our_error = torch.stack([row - truth[index][position] for index, position, row in rows])
    their_error = torch.stack([theirs[index][position] - truth[index][position] for index, position, _ in rows])
    assert their_error.abs().max() > 0
    ratio = rms(our_error) / rms(their_error)
    assert ratio <= 1.5, f"our error is {ratio:.2f} times that of transformers"


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
