"""Runs batches on a GPU one step ahead of the scheduler, so that the device never waits for Python.

    run(n):  step n's decodes are running already; launch what else is in batch n; launch the decodes of step n + 1;
             wait for step n's tokens and return them

Step n + 1 is launched before anybody has seen the tokens of step n: they stay on the device, in the row table. While it
runs, the scheduler commits step n and makes batch n + 1. What of it agrees with what runs is taken from there:

- a sequence that ended (stop token, abort, preemption) has one step computed in vain. It wrote to blocks that were its own
  when it was launched; whoever gets them next is launched later on the same stream, and writes before it reads.
- a sequence runs ahead only into a block that it holds. The scheduler hands that block out one token early
  (`Scheduler(tokens_ahead=1)`) while blocks are plenty.
- nothing is launched ahead while prompts wait for the next step: there the decodes ride along with the chunks, in one
  pass over the weights.

Rows whose sampling is not plain are drawn again after their launch and never run ahead (`cuda_careful.py`).

At most three launches are unread at a time: both parts of step n, and step n + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headway_engine.core.batch import Batch, Chunk, DeviceLostError, StepResult
from headway_engine.kernels.decoder import FusedDecoder, whole_prompt_attention
from headway_engine.model.transformer import Decoder
from headway_engine.runtime.cuda_careful import NOT_FINITE, CarefulPending, redraw
from headway_engine.runtime.cuda_graphs import DecodeGraphs, GraphPool
from headway_engine.runtime.cuda_pack import planned_lengths
from headway_engine.runtime.cuda_prompts import PromptSteps, Shared
from headway_engine.runtime.cuda_results import Pending, Results
from headway_engine.runtime.cuda_rows import RowTable
from headway_engine.runtime.cuda_sizes import CudaSizes
from headway_engine.runtime.cuda_staging import Staging
from headway_engine.runtime.executor import allocate_cache


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Decodes launched before their batch was scheduled: place and position by sequence id."""

    places: dict[int, tuple[int, int]]
    pending: Pending

    def place(self, chunk: Chunk) -> int:
        """Where the chunk's token will be; -1 when the chunk was not launched."""
        place, start = self.places.get(chunk.sequence_id, (-1, -1))
        return place if start == chunk.start and chunk.sample and len(chunk.token_ids) == 1 else -1


@dataclass(frozen=True, slots=True)
class _Launched:
    """Scheduled chunks whose tokens are on their way."""

    pending: Pending
    careful: CarefulPending | None

    def wait(self) -> list[StepResult]:
        """One for each chunk that samples."""
        results = [_result(token) for token in self.pending.wait()]
        if self.careful is not None:
            for place, result in zip(self.careful.places, self.careful.wait(), strict=True):
                results[place] = result
        return results


class CudaExecutor:
    """Implements `core.batch.Executor` with the kernels of `headway_engine.kernels`. Used from one thread."""

    def __init__(self, model: Decoder, sizes: CudaSizes) -> None:
        """Allocate the KV cache, compile the kernels and capture the graphs."""
        device, config = model.embed.device, model.config
        self._sizes = sizes
        cache = allocate_cache(config, sizes.num_blocks + 1, sizes.block_size, model.embed)
        max_blocks = -(-sizes.max_len // sizes.block_size)
        with torch.inference_mode():
            self._decoder = FusedDecoder(model, cache, sizes.max_len)
            self._rows = RowTable(2 * sizes.max_seqs, max_blocks, device)
            self._results = Results(sizes.max_seqs, device)
            self._staging = Staging(4 * sizes.max_tokens + 8 * sizes.max_seqs + 4096, device)
            pool = GraphPool()
            self._graphs = DecodeGraphs(
                self._decoder, self._rows, self._results, pool, sizes.block_size, sizes.max_seqs
            )
            shared = Shared(self._decoder, self._rows, self._results, self._staging)
            weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
            self._prompts = PromptSteps(shared, sizes, pool, weight_bytes)
            self._results.resynchronize()
        self._ahead: _Ahead | None = None
        self._row_ids: list[int] = []  # what the graphs' input holds

    @property
    def num_blocks(self) -> int:
        """KV blocks that sequences may use."""
        return self._sizes.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""
        return self._sizes.block_size

    @torch.inference_mode()
    def begin(self) -> None:
        """Have the library's attention make its plans: it keeps them for each thread."""
        config, like = self._decoder.config, self._decoder.embedding
        longest = min(self._sizes.max_tokens, self._sizes.max_len)
        for length in planned_lengths(longest):
            whole_prompt_attention(
                like.new_zeros(length, config.num_heads + 2 * config.num_kv_heads, config.head_dim), config.num_heads
            )

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """Compute one step; see `core.batch.Executor.run`."""
        try:
            return self._run(batch)
        except Exception as error:
            self._ahead, self._row_ids = None, []
            self._rows.forget()
            try:
                self._results.resynchronize()
            except RuntimeError:  # an error that stays: CUDA answers every further call with it
                first_line = (str(error).splitlines() or [type(error).__name__])[0]
                raise DeviceLostError(f"the GPU is lost to this process: {first_line}") from error
            raise

    def _run(self, batch: Batch) -> tuple[StepResult, ...]:
        self._rows.next_turn()
        ahead, self._ahead = self._ahead, None
        places = [-1] * len(batch.chunks) if ahead is None else [ahead.place(chunk) for chunk in batch.chunks]
        rest = [chunk for chunk, place in zip(batch.chunks, places, strict=True) if place < 0]
        others = self._launch(rest) if rest else None
        if not batch.prompts_follow:
            self._ahead = self._launch_ahead(batch)
        early = [] if ahead is None or len(rest) == len(places) else ahead.pending.wait()
        late = iter([] if others is None else others.wait())
        return tuple(
            _result(early[place]) if place >= 0 else next(late)
            for chunk, place in zip(batch.chunks, places, strict=True)
            if chunk.sample
        )

    # ---- launches: nothing below waits for the device ---------------------------------------------------------------

    def _launch(self, chunks: Sequence[Chunk]) -> _Launched | None:
        """Compute chunks; None when none of them samples."""
        if all(chunk.sample and len(chunk.token_ids) == 1 for chunk in chunks):
            return self._launch_decodes(chunks)
        return self._launch_prompts(chunks)

    def _launch_decodes(self, chunks: Sequence[Chunk]) -> _Launched:
        rows = [self._rows.of(chunk) for chunk in chunks]
        for row, chunk in zip(rows, chunks, strict=True):
            self._rows.patch_count(row, chunk)
            self._rows.patch_token(row, chunk)
            row.position += 1
            row.num_sampled += 1
        indices = [row.index for row in rows]
        pending, hidden = self._replay(indices)
        return _Launched(pending, redraw(self._decoder, self._rows.tensor, hidden, chunks, indices))

    def _launch_ahead(self, batch: Batch) -> _Ahead | None:
        """Decode the sequences of this batch once more, those that will go on as far as one can tell."""
        size, max_len = self._sizes.block_size, self._sizes.max_len
        indices: list[int] = []
        places: dict[int, tuple[int, int]] = {}
        for chunk in batch.chunks:
            start, limit = chunk.start + len(chunk.token_ids), chunk.sampling.max_tokens
            ends = start >= max_len or (limit is not None and chunk.num_sampled + 1 >= limit)
            if not chunk.sample or chunk.careful is not None or ends or start >= len(chunk.block_table) * size:
                continue
            row = self._rows.of(chunk)
            if row.position != start:
                continue  # the row was given away meanwhile, and with it the token that only the device knows
            places[chunk.sequence_id] = len(indices), start
            indices.append(row.index)
            row.position += 1
            row.num_sampled += 1
        return _Ahead(places, self._replay(indices)[0]) if indices else None

    def _replay(self, indices: list[int]) -> tuple[Pending, torch.Tensor]:
        """Decode these rows with the tokens that the device holds; the second is their residual stream."""
        self._write_patches()
        count = len(indices)
        size = self._graphs.size_for(count)
        padded = indices + [self._rows.padding] * (size - count)
        if padded != self._row_ids[:size]:
            self._staging.upload(padded, into=self._graphs.row_ids)
            self._row_ids = padded + self._row_ids[size:]
        hidden = self._graphs.replay(size)
        return self._results.collect(count), hidden

    def _launch_prompts(self, chunks: Sequence[Chunk]) -> _Launched | None:
        indices = []
        for chunk in chunks:
            row = self._rows.of(chunk)
            self._rows.patch_count(row, chunk)
            indices.append(row.index)
            row.position = chunk.start + len(chunk.token_ids) if chunk.sample else -1
            row.num_sampled += chunk.sample
        self._write_patches()
        num_sampled = sum(chunk.sample for chunk in chunks)
        hidden = self._prompts.launch(chunks, indices)
        if not num_sampled:
            return None
        pending = self._results.collect(num_sampled)
        return _Launched(pending, redraw(self._decoder, self._rows.tensor, hidden, chunks, indices))

    def _write_patches(self) -> None:
        cells, values = self._rows.take_patches()
        if cells:
            patches = self._staging.upload(cells, values).view(2, -1)
            self._rows.tensor.view(-1).index_copy_(0, patches[0], patches[1])


def _result(token: int) -> StepResult:
    return token if token >= 0 else NOT_FINITE
