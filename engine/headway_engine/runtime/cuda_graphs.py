"""CUDA graphs of the two launches that a GPU would otherwise spend waiting for Python.

    decode   embedding to sampled token for a number of rows; row ids are its only input, all else is in the row table
    prompt   a few short chunks, padded to a number of tokens; its input is one packed array (`cuda_pack.py`)

Each decode graph is for one batch size, and a batch takes the next larger one; the padding rows of the table fill it up.
All graphs share one memory pool: they run one after the other on one stream, and nothing in the pool outlives a replay.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch

from headway_engine.kernels.decode_attention import plan_splits
from headway_engine.kernels.decoder import FusedDecoder, Step
from headway_engine.kernels.launch import compiling_together
from headway_engine.kernels.rope import Tokens
from headway_engine.kernels.rows import embed_rows
from headway_engine.kernels.sampling import Sampled, sample_rows
from headway_engine.runtime.cuda_results import Results
from headway_engine.runtime.cuda_rows import RowTable

Output = TypeVar("Output")
Key = TypeVar("Key")


def decode_sizes(max_rows: int) -> list[int]:
    """Batch sizes that get a graph: close together, so that little is padded."""
    sizes = {1, 2, 4, *range(8, 257, 8), *range(272, 1025, 16)}
    return sorted({size for size in sizes if size < max_rows} | {max_rows})


class GraphPool:
    """Captures graphs into one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture_each(
        self, launches: Mapping[Key, Callable[[], Output]]
    ) -> dict[Key, tuple[torch.cuda.CUDAGraph, Output]]:
        """See `capture`; the kernels of all launches are compiled side by side first."""
        with compiling_together():
            for launch in launches.values():
                launch()
        return {key: self.capture(launch) for key, launch in launches.items()}

    def capture(self, launch: Callable[[], Output]) -> tuple[torch.cuda.CUDAGraph, Output]:
        """A graph of `launch`, which runs once before: kernels are compiled and library handles made outside of it.

        What it returned in the graph holds the latest replay's values, until any other graph of the pool is replayed.
        """
        launch()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = launch()
        return graph, output


class DecodeGraphs:
    """One graph per batch size."""

    def __init__(
        self, decoder: FusedDecoder, rows: RowTable, results: Results, pool: GraphPool, block_size: int, max_rows: int
    ) -> None:
        self._decoder, self._rows, self._results = decoder, rows, results
        self._block_size = block_size
        device = rows.tensor.device
        self.row_ids = torch.full((max_rows,), rows.padding, dtype=torch.int64, device=device)
        self._positions = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._flat = torch.arange(max_rows, device=device)
        self._sizes = decode_sizes(max_rows)
        # The largest first: the others then fit into the memory that it needs.
        self._graphs = pool.capture_each({size: partial(self._launch, size) for size in reversed(self._sizes)})

    def size_for(self, rows: int) -> int:
        """The smallest captured size that holds `rows` rows."""
        return next(size for size in self._sizes if size >= rows)

    def replay(self, size: int) -> torch.Tensor:
        """Decode the first `size` of `row_ids`; returns their residual stream, which the next replay overwrites."""
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden

    def _launch(self, size: int) -> torch.Tensor:
        decoder, results, table = self._decoder, self._results, self._rows.tensor
        ids, positions = self.row_ids[:size], self._positions[:size]
        h = embed_rows(table, ids, decoder.embedding, positions, results.step)
        tokens = Tokens(positions, ids, self._rows.block_tables, self._block_size)
        splits = plan_splits(size, decoder.config.num_kv_heads)
        h = decoder.hidden(h, Step(tokens, num_decodes=size, splits=splits))
        sample_rows(decoder.logits(h), Sampled(ids, self._flat[:size], positions, table, results.out, results.step))
        return h
