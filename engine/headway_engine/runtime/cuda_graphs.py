"""CUDA graphs of the two launches that a GPU would otherwise spend waiting for Python.

    decode   embedding to sampled token for a number of rows; row ids are its only input, all else is in the row table
    prompt   a few short chunks, padded to a number of tokens; its input is one packed array (`cuda_pack.py`)

Each decode graph is for one batch size, and a batch takes the next larger one; the padding rows of the table fill it up.
All graphs share one memory pool: they run one after the other on one stream, and nothing in the pool outlives a replay.

An engine is ready when its graphs are, so everything that they wait for is made at the same time: every launch is first gone
through once with its kernels compiled and not run (`kernels/launch.py`), while the library, which does run, loads its products
and makes its plans. Only then are the graphs captured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

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


def decode_sizes(max_rows: int) -> list[int]:
    """Batch sizes that get a graph: close together, so that little is padded."""
    sizes = {1, 2, 4, *range(8, 257, 8), *range(272, 1025, 16)}
    return sorted({size for size in sizes if size < max_rows} | {max_rows})


class Graph(Generic[Output]):
    """A launch of so many rows that is captured when its pool is; until then it cannot be replayed."""

    def __init__(self, launch: Callable[[], Output], rows: int) -> None:
        self.launch, self.rows = launch, rows
        self._graph = torch.cuda.CUDAGraph()
        self._output: Output

    def capture(self, pool: Any) -> None:
        """Record what `launch` does; all that it needs has been made."""
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = self.launch()

    def replay(self) -> Output:
        """Launch it; what it returns holds this replay's values until any other graph of the pool is replayed."""
        self._graph.replay()
        return self._output


class GraphPool:
    """Graphs that are captured together, into one pool of memory, which is as large as the largest one needs."""

    def __init__(self) -> None:
        self._graphs: list[Graph[Any]] = []
        self._others: list[Callable[[], object]] = []

    def graph(self, launch: Callable[[], Output], rows: int) -> Graph[Output]:
        """A graph to be captured, of a launch that computes so many rows."""
        self._graphs.append(Graph(launch, rows))
        return self._graphs[-1]

    def prepare(self, launch: Callable[[], object]) -> None:
        """Have ready what this launch needs, which has no graph."""
        self._others.append(launch)

    def capture(self) -> None:
        """Compile and plan for all launches, and capture the graphs. Call in the thread that replays them, once.

        The library's attention keeps its plans for each thread.
        """
        torch.cuda.synchronize()  # the library wants a thread that has used the device
        with compiling_together():
            for launch in (*(graph.launch for graph in self._graphs), *self._others):
                launch()
        self._others.clear()
        pool = torch.cuda.graph_pool_handle()
        # A block of the pool serves what is no larger, so the largest ones come first.
        for graph in sorted(self._graphs, key=lambda graph: -graph.rows):
            graph.capture(pool)


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
        self._graphs = {size: pool.graph(partial(self._launch, size), size) for size in self._sizes}

    def size_for(self, rows: int) -> int:
        """The smallest captured size that holds `rows` rows."""
        return next(size for size in self._sizes if size >= rows)

    def replay(self, size: int) -> torch.Tensor:
        """Decode the first `size` of `row_ids`; returns their residual stream, which the next replay overwrites."""
        return self._graphs[size].replay()

    def _launch(self, size: int) -> torch.Tensor:
        decoder, results, table = self._decoder, self._results, self._rows.tensor
        ids, positions = self.row_ids[:size], self._positions[:size]
        h = embed_rows(table, ids, decoder.embedding, positions, results.step)
        tokens = Tokens(positions, ids, self._rows.block_tables, self._block_size)
        splits = plan_splits(size, decoder.config.num_kv_heads)
        h = decoder.hidden(h, Step(tokens, num_decodes=size, splits=splits))
        sample_rows(decoder.logits(h), Sampled(ids, self._flat[:size], positions, table, results.out, results.step))
        return h
