"""The executor for NVIDIA GPUs: launches by the kernels of `headway_engine.kernels`, one step ahead of the scheduler.

What is launched when is the matter of `ahead.py`. The tokens that a step ahead needs before anybody has seen them are in the row
table on the device, where sampling puts them: what a row will hold is known on the host when a launch is made, so nothing waits
(`cuda_rows.py`). Decodes take a graph for their number, steps with prompts are the matter of `cuda_prompts.py`, and rows whose
sampling is not plain are drawn again after their launch (`cuda_careful.py`).

At most three launches are unread at a time: both parts of step n, and step n + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headway_engine.core.batch import Batch, Chunk, DeviceLostError, StepResult
from headway_engine.kernels.decoder import FusedDecoder
from headway_engine.model.transformer import Decoder
from headway_engine.runtime.ahead import RunAhead
from headway_engine.runtime.cuda_careful import NOT_FINITE, CarefulPending, redraw
from headway_engine.runtime.cuda_graphs import DecodeGraphs, GraphPool
from headway_engine.runtime.cuda_prompts import PromptSteps, Shared
from headway_engine.runtime.cuda_results import Pending, Results
from headway_engine.runtime.cuda_rows import RowTable
from headway_engine.runtime.cuda_sizes import CudaSizes
from headway_engine.runtime.cuda_staging import Staging
from headway_engine.runtime.executor import allocate_cache


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
    """Implements `core.batch.Executor`. Used from one thread."""

    def __init__(self, model: Decoder, sizes: CudaSizes) -> None:
        """Allocate the KV cache and what the launches work on; `begin` makes the launches."""
        self._sizes = sizes
        with torch.inference_mode():
            self._launches = CudaLaunches(model, sizes)
        self._steps = RunAhead(self._launches, sizes.block_size, sizes.max_len)

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
        """Compile the kernels and capture the graphs."""
        self._launches.make_ready()

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """Compute one step; see `core.batch.Executor.run`."""
        try:
            return self._steps.run(batch)
        except Exception as error:
            self._steps.forget()
            try:
                self._launches.forget()
            except RuntimeError:  # an error that stays: CUDA answers every further call with it
                first_line = (str(error).splitlines() or [type(error).__name__])[0]
                raise DeviceLostError(f"the GPU is lost to this process: {first_line}") from error
            raise


class CudaLaunches:
    """Implements `ahead.Launches`."""

    def __init__(self, model: Decoder, sizes: CudaSizes) -> None:
        """See `CudaExecutor`."""
        device, config = model.embed.device, model.config
        cache = allocate_cache(config, sizes.num_blocks + 1, sizes.block_size, model.embed)
        max_blocks = -(-sizes.max_len // sizes.block_size)
        self._decoder = FusedDecoder(model, cache, sizes.max_len)
        self._rows = RowTable(2 * sizes.max_seqs, max_blocks, device)
        self._results = Results(sizes.max_seqs, device)
        self._staging = Staging(4 * sizes.max_tokens + 8 * sizes.max_seqs + 4096, device)
        self._pool = pool = GraphPool()
        self._graphs = DecodeGraphs(self._decoder, self._rows, self._results, pool, sizes.block_size, sizes.max_seqs)
        shared = Shared(self._decoder, self._rows, self._results, self._staging)
        self.prompts = PromptSteps(shared, sizes, pool, sum(parameter.nbytes for parameter in model.parameters()))
        self._row_ids: list[int] = []  # what the graphs' input holds

    def make_ready(self) -> None:
        """Compile, plan and capture, once and before any other call, in the thread of those calls."""
        self._pool.capture()
        self._results.resynchronize()

    def forget(self) -> None:
        """A launch failed: nothing is known of the device.

        Raises:
            RuntimeError: the device computes nothing any more.
        """
        self._row_ids = []
        self._rows.forget()
        self._results.resynchronize()

    def next_batch(self, kept: Sequence[Chunk]) -> None:
        """See `ahead.Launches`."""
        self._rows.next_turn(chunk.sequence_id for chunk in kept)

    def launch(self, chunks: Sequence[Chunk]) -> _Launched:
        """See `ahead.Launches`."""
        if all(chunk.sample and len(chunk.token_ids) == 1 for chunk in chunks):
            return self._launch_decodes(chunks)
        return self._launch_prompts(chunks)

    def decode_after(self, chunks: Sequence[Chunk]) -> _Launched:
        """See `ahead.Launches`."""
        indices = []
        for chunk in chunks:
            row = self._rows.of(chunk)
            indices.append(row.index)
            row.position += 1
            row.num_sampled += 1
        return _Launched(self._replay(indices)[0], None)

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

    def _replay(self, indices: list[int]) -> tuple[Pending, torch.Tensor]:
        """Decode these rows with the tokens that the device holds; the second is their residual stream."""
        self._rows.write_patches(self._staging)
        count = len(indices)
        size = self._graphs.size_for(count)
        padded = indices + [self._rows.padding] * (size - count)
        if padded != self._row_ids[:size]:
            self._staging.upload(padded, into=self._graphs.row_ids)
            self._row_ids = padded + self._row_ids[size:]
        hidden = self._graphs.replay(size)
        return self._results.collect(count), hidden

    def _launch_prompts(self, chunks: Sequence[Chunk]) -> _Launched:
        indices = []
        for chunk in chunks:
            row = self._rows.of(chunk)
            self._rows.patch_count(row, chunk)
            indices.append(row.index)
            row.position = chunk.start + len(chunk.token_ids) if chunk.sample else -1
            row.num_sampled += chunk.sample
        num_sampled = sum(chunk.sample for chunk in chunks)
        hidden = self.prompts.launch(chunks, indices)
        if not num_sampled:
            return _Launched(self._results.nothing(), None)
        pending = self._results.collect(num_sampled)
        return _Launched(pending, redraw(self._decoder, self._rows.tensor, hidden, chunks, indices))


def _result(token: int) -> StepResult:
    return token if token >= 0 else NOT_FINITE
