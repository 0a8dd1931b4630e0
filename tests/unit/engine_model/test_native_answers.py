"""SmolLM2 computed natively: near to float32 in every type, and the same bits in any company."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from native_library import require

from headway_engine.bench.beside_transformers import default_model
from headway_engine.model import config, weights
from headway_engine.model import tokenizer as model_tokenizer
from headway_engine.model.attention import StepLayout
from headway_engine.model.gguf import GgufFile
from headway_engine.model.native import NativeDecoder
from headway_engine.native import library
from headway_engine.runtime.executor import allocate_cache

TEXT = (Path(__file__).parents[3] / "LICENSE").read_text()
BLOCK, LONGEST = 16, 512
TABLE_BLOCKS = LONGEST // BLOCK


def load(dtype: str, threads: int) -> NativeDecoder:
    require(dtype)
    file = GgufFile(default_model())
    shape = config.from_gguf(file.metadata, frozenset(file.tensors), str(file.path))
    kept = torch.float32 if dtype == "float32" else torch.bfloat16
    model = weights.build(shape, weights.from_gguf(file, shape), file.path, torch.device("cpu"), kept)
    return NativeDecoder(model, dtype, LONGEST, threads)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    file = GgufFile(default_model())
    (ids,) = model_tokenizer.from_gguf(file, ()).encode_batch([TEXT[2000:]])
    return ids


class Sequences:
    """Computes sequences step by step and keeps the logits of every token."""

    def __init__(self, decoder: NativeDecoder, sequences: Sequence[Sequence[int]]) -> None:
        self._decoder, self._sequences = decoder, sequences
        self._done = [0] * len(sequences)
        self._cache = allocate_cache(decoder.config, 1 + TABLE_BLOCKS * len(sequences), BLOCK, decoder.embed)
        self.logits: list[list[torch.Tensor]] = [[] for _ in sequences]

    def step(self, counts: Sequence[int]) -> None:
        """The next tokens of each sequence, `counts` of them."""
        wanted = [(n, self._done[n], count) for n, count in enumerate(counts) if count]
        ids = [token for n, start, count in wanted for token in self._sequences[n][start : start + count]]
        positions = [position for _, start, count in wanted for position in range(start, start + count)]
        layout = StepLayout(
            query_lens=[count for _, _, count in wanted],
            context_lens=[start + count for _, start, count in wanted],
            block_tables=[tuple(range(1 + TABLE_BLOCKS * n, 1 + TABLE_BLOCKS * (n + 1))) for n, _, _ in wanted],
            num_decodes=0,
            slots=torch.tensor([]),
            block_size=BLOCK,
            dtype=self._decoder.embed.dtype,
        )
        rows = torch.arange(len(ids))
        out, _ = self._decoder.logits(torch.tensor(ids), torch.tensor(positions), layout, self._cache, rows)
        for (n, start, count), part in zip(wanted, out.split([count for _, _, count in wanted]), strict=True):
            self.logits[n].extend(part)
            self._done[n] = start + count


def computed(
    decoder: NativeDecoder, sequences: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    work = Sequences(decoder, sequences)
    for counts in steps:
        work.step(counts)
    return [torch.stack(rows) for rows in work.logits]


@pytest.mark.parametrize(
    ("dtype", "agreement", "likelihood"), [("bfloat16", 0.98, 0.01), ("int8", 0.9, 0.05)], ids=["bfloat16", "int8"]
)
def test_the_likeliest_tokens_and_the_likelihood_of_real_text_are_those_of_float32(
    tokens: list[int], dtype: str, agreement: float, likelihood: float
) -> None:
    text, following = tokens[:300], torch.tensor(tokens[1:301])
    ours, truth = (computed(load(name, 1), [text], [[300]])[0] for name in (dtype, "float32"))
    assert (ours.argmax(-1) == truth.argmax(-1)).float().mean() >= agreement
    # Nats per token; the text has about 3.
    lost = torch.nn.functional.cross_entropy(ours, following) - torch.nn.functional.cross_entropy(truth, following)
    assert abs(lost) <= likelihood


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bfloat16 without AMX", "int8"])
def test_logits_are_the_same_bits_alone_in_company_and_in_chunks(
    tokens: list[int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, _, without = dtype.partition(" ")
    if without:
        monkeypatch.setattr(library, "amx", lambda: False)
    sequences = [tokens[:24], tokens[30:47], *(tokens[60 + 5 * n : 60 + 5 * n + 18] for n in range(7))]
    alone = [computed(load(dtype, 1), [sequence], [[len(sequence)]])[0] for sequence in sequences[:2]]
    steps = [[20, 3], [0, 5, *[9] * 7], [1, 1, *[1] * 7], [1, 2, *[1] * 7], [1, 1, *[7] * 7], [1, 5]]
    together = computed(load(dtype, 3), sequences, [[*counts, *[0] * (9 - len(counts))] for counts in steps])
    for expected, found in zip(alone, together, strict=False):
        assert torch.equal(found, expected)
