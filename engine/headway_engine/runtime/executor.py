"""Runs batches on a device: owns the model and the KV cache, turns a `Batch` into tensors and logits into tokens.

The order of work in `run` is: flatten the chunks to one list of tokens, compute slots and positions, let the attention back
end see the layout once, run the decoder, sample the rows that want a token. Nothing of a sequence is kept between two
steps; the cache is addressed by the block tables alone, so a preempted or aborted sequence needs no clean-up.
"""

from dataclasses import dataclass

import torch

from headway_engine.core.batch import Batch, StepResult
from headway_engine.model.attention import BACKENDS, AttentionBackend, StepLayout
from headway_engine.model.config import ModelConfig
from headway_engine.model.native import NativeDecoder
from headway_engine.model.sampler import Draw, Likeliest, sample
from headway_engine.model.transformer import Decoder, KVCache


@dataclass(frozen=True, slots=True)
class _Tensors:
    """A batch, flattened."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    sampled_rows: torch.Tensor
    layout: StepLayout


class TorchExecutor:
    """Implements `core.batch.Executor` with torch. Used from one thread."""

    def __init__(
        self,
        model: Decoder | NativeDecoder,
        num_blocks: int,
        block_size: int,
        attention: AttentionBackend = BACKENDS["torch"],
    ) -> None:
        """Allocate the KV cache.

        Args:
            model: with its weights and its rotation table.
            num_blocks: blocks for sequences; one more is allocated, see `core/batch.py`.
            block_size: tokens per block.
            attention: how attention is computed, unless by a native decoder.
        """
        self._model = model
        self._attention = attention
        self._num_blocks, self._block_size = num_blocks, block_size
        self._device, self._dtype = model.embed.device, model.embed.dtype
        self._cache = allocate_cache(model.config, num_blocks + 1, block_size, model.embed)

    @property
    def num_blocks(self) -> int:
        """KV blocks that sequences may use."""
        return self._num_blocks

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""
        return self._block_size

    def begin(self) -> None:
        """See `core.batch.Executor.begin`: nothing to do here."""

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """Compute one step; see `core.batch.Executor.run`."""
        tensors = self._flatten(batch)
        logits, likeliest = self._logits(tensors)
        draws = [
            Draw(chunk.sampling, chunk.seed, chunk.num_sampled, chunk.careful) for chunk in batch.chunks if chunk.sample
        ]
        return sample(logits, draws, likeliest) if draws else ()

    def _logits(self, tensors: _Tensors) -> tuple[torch.Tensor, Likeliest | None]:
        ids, positions, rows = tensors.token_ids, tensors.positions, tensors.sampled_rows
        if isinstance(self._model, NativeDecoder):
            return self._model.logits(ids, positions, tensors.layout, self._cache, rows)
        out: torch.Tensor = self._model(ids, positions, self._attention(tensors.layout), self._cache, rows)
        return out, None

    def _flatten(self, batch: Batch) -> _Tensors:
        size = self._block_size
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled_rows: list[int] = []
        num_decodes = 0
        for index, chunk in enumerate(batch.chunks):
            table, end = chunk.block_table, chunk.start + len(chunk.token_ids)
            token_ids.extend(chunk.token_ids)
            positions.extend(range(chunk.start, end))
            slots.extend(table[p // size] * size + p % size for p in range(chunk.start, end))
            if chunk.sample:
                sampled_rows.append(len(token_ids) - 1)
            # A one-token chunk of a prompt is computed like a decode, as long as those before it are.
            if len(chunk.token_ids) == 1 and num_decodes == index:
                num_decodes += 1
        return _Tensors(
            token_ids=self._tensor(token_ids),
            positions=self._tensor(positions),
            sampled_rows=self._tensor(sampled_rows),
            layout=StepLayout(
                query_lens=[len(chunk.token_ids) for chunk in batch.chunks],
                context_lens=[chunk.start + len(chunk.token_ids) for chunk in batch.chunks],
                block_tables=[chunk.block_table for chunk in batch.chunks],
                num_decodes=num_decodes,
                slots=self._tensor(slots),
                block_size=size,
                dtype=self._dtype,
            ),
        )

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def allocate_cache(config: ModelConfig, blocks: int, block_size: int, like: torch.Tensor) -> KVCache:
    """Keys and values of each layer, on the device and in the type of `like`."""
    shape = (blocks, block_size, config.num_kv_heads, config.head_dim)
    # Zeros, not garbage: masked rows are multiplied by a weight of zero, and zero times NaN is NaN.
    return [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.num_layers)]
