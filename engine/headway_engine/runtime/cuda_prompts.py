"""Launches of steps with prompt chunks, in graphs where they would otherwise wait for Python.

A graph is for a number of tokens, of which the first ones decode: how many is part of its input, up to what it has room for. A
step takes the smallest graph that holds it, padded with tokens of the padding row; one that none holds is launched kernel by
kernel. A graph's input is one packed array (`cuda_pack.py`), its tokens go to the ring of `cuda_results.py` and into the row
table, like those of a decode graph. A token that only the device knows yet (`core.batch.UNSEEN`) is taken from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it

from headway_engine.core.batch import Chunk
from headway_engine.kernels.decode_attention import plan_splits
from headway_engine.kernels.decoder import FusedDecoder, Step, WholePrompt
from headway_engine.kernels.rope import Tokens
from headway_engine.kernels.rows import IDLE_CELL, TOKEN
from headway_engine.kernels.sampling import Sampled, sample_rows
from headway_engine.kernels.whole_attention import whole_prompt_attention
from headway_engine.runtime.cuda_graphs import Graph, GraphPool
from headway_engine.runtime.cuda_pack import (
    Packed,
    Shape,
    Unpacked,
    cut_at,
    graph_shape,
    laid_out,
    pack,
    planned_lengths,
    unpack,
    whole_length,
)
from headway_engine.runtime.cuda_results import Results
from headway_engine.runtime.cuda_rows import RowTable
from headway_engine.runtime.cuda_sizes import CudaSizes
from headway_engine.runtime.cuda_staging import Staging

# Steps with up to these many tokens of prompts have a graph: they would otherwise wait for their launches, 15 ms and more.
# In large models longer ones compute longer than that; in all but the smallest the graph's paged attention is slower than the
# library's over one long prompt. A step of one whole prompt has a graph of its own with the library's attention, for each
# length that it has a plan for.
_PROMPT_GRAPH_TOKENS = (32, 64, 128, 192, 256, 320, 384, 512, 640)
_SMALL_PROMPT_GRAPH_TOKENS = (768, 1024, 1536, 2048)
_SMALLEST_PROMPT_GRAPH_TOKENS = (3072, 4096)
_PROMPT_GRAPH_CHUNKS = 16
# Cells of the row table that a graph patches first: a newcomer has one for each block and seven more. More are written by themselves.
_GRAPH_PATCHES = 1024
# Steps with up to these many decodes, and of up to these many tokens in all: close together, since a step under load is as large
# as its token budget, and a large model computes a padded token as long as another. Up to the largest budget that is common, and
# in large models too: a step is launched while the one before it runs, whose tokens are read after that.
_MIXED_GRAPH_DECODES = (32, 128, 256, 512)
_MIXED_GRAPH_TOKENS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1536, 1792, 2048)
_WHOLE_GRAPH_TOKENS = 4096
# One for each kernel of narrow products (`kernels/narrow.py`), and the tiles of longer prompts; paged attention comes along.
_COMPILED_TOKENS = (16, 32, 64, 128, 256, 512)
_SMALL_MODEL_BYTES = 4 << 30
_SMALLEST_MODEL_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Shared:
    """What all launches of an executor work on."""

    decoder: FusedDecoder
    rows: RowTable
    results: Results
    staging: Staging


@dataclass(frozen=True, slots=True)
class PromptGraph:
    """A step of decodes and prompt chunks, its input, and the graph that returns the residual stream of what samples."""

    packed: Packed
    array: torch.Tensor
    graph: Graph[torch.Tensor]


class PromptSteps:
    """Computes decodes and prompt chunks in one pass over the weights.

    Attributes:
        graphs: by the number of decodes that they have room for, each list by tokens.
        whole: those of one whole prompt, by its padded length.
    """

    def __init__(self, shared: Shared, sizes: CudaSizes, pool: GraphPool, weight_bytes: int) -> None:
        """The graphs of a model of this size, which the pool captures."""
        self._shared, self._sizes, self._pool = shared, sizes, pool
        self._prepare()
        self.graphs = self._mixed(weight_bytes)
        self.whole = self._whole() if weight_bytes <= _SMALL_MODEL_BYTES else {}

    def launch(self, chunks: Sequence[Chunk], indices: Sequence[int]) -> torch.Tensor:
        """Compute chunks, decodes first; returns the residual stream of those that sample. Does not wait for the device.

        The next launch may overwrite it. What is to be patched in the row table by then comes with the step.

        Args:
            chunks: of one step.
            indices: their rows.
        """
        rows, staging = self._shared.rows, self._shared.staging
        decodes = next((n for n, chunk in enumerate(chunks) if len(chunk.token_ids) > 1), len(chunks))
        graph = self._graph_for(chunks, decodes)
        packed = pack(chunks, indices, decodes, allow_whole=graph is None or bool(graph.packed.whole))
        if graph is None:
            patches = rows.take_patches()
            shape = replace(packed.shape, patches=len(patches[0]))
            array = staging.upload(laid_out(packed, patches, shape, rows.padding))
            return self._forward(unpack(array, shape), packed, counted=False)
        if rows.num_patches > _GRAPH_PATCHES:
            rows.write_patches(staging)
        staging.upload(laid_out(packed, rows.take_patches(), graph.packed.shape, rows.padding), into=graph.array)
        hidden = graph.graph.replay()
        if not packed.shape.sampled:
            self._shared.results.skip()
        return hidden

    def _graph_for(self, chunks: Sequence[Chunk], decodes: int) -> PromptGraph | None:
        tokens = sum(len(chunk.token_ids) for chunk in chunks)
        if len(chunks) == 1 and chunks[0].start == 0 and (whole := self.whole.get(whole_length(tokens) or 0)):
            return whole
        if len(chunks) - decodes > _PROMPT_GRAPH_CHUNKS:
            return None
        room = next((room for room in self.graphs if room >= decodes), -1)
        fitting = (graph for graph in self.graphs.get(room, ()) if graph.packed.shape.tokens >= tokens)
        return next(fitting, None)

    def _forward(self, views: Unpacked, packed: Packed, counted: bool) -> torch.Tensor:
        """The step itself, in a graph or right now; returns the residual stream of the sampled rows.

        Args:
            views: the input.
            packed: its shape, decodes and whole prompts.
            counted: the input has the number of decodes.
        """
        decoder, results, rows = self._shared.decoder, self._shared.results, self._shared.rows
        if len(views.cells):
            rows.tensor.view(-1).index_copy_(0, views.cells, views.values)
        known = views.token_ids
        drawn = rows.tensor[:, TOKEN].index_select(0, views.rows)
        h = F.embedding(torch.where(known < 0, drawn, known), decoder.embedding)
        step = Step(
            tokens=Tokens(views.positions, views.rows, rows.block_tables, self._sizes.block_size),
            num_decodes=packed.num_decodes,
            splits=plan_splits(packed.num_decodes, decoder.config.num_kv_heads),
            tiles=views.tiles if packed.shape.tiles else None,
            whole=packed.whole,
            decodes=views.decodes if counted else None,
            wanted=views.sampled_flat,
        )
        h = decoder.hidden(h, step)
        if packed.shape.sampled:
            results.step.add_(1)
            sampled = Sampled(
                views.sampled_rows, views.sampled_flat, views.positions, rows.tensor, results.out, results.step
            )
            sample_rows(decoder.logits(h), sampled)
        return h

    def _mixed(self, weight_bytes: int) -> dict[int, list[PromptGraph]]:
        small, smallest = weight_bytes <= _SMALL_MODEL_BYTES, weight_bytes <= _SMALLEST_MODEL_BYTES
        alone = _PROMPT_GRAPH_TOKENS + small * _SMALL_PROMPT_GRAPH_TOKENS + smallest * _SMALLEST_PROMPT_GRAPH_TOKENS
        rooms = cut_at(self._sizes.max_seqs, _MIXED_GRAPH_DECODES)
        graphs = {0: self._beside(0, alone)}
        for room, less in zip(rooms, (0, *rooms), strict=False):  # a step of more decodes has more tokens than those
            graphs[room] = self._beside(room, [tokens for tokens in _MIXED_GRAPH_TOKENS if tokens > less])
        return graphs

    def _beside(self, decodes: int, sizes: Sequence[int]) -> list[PromptGraph]:
        most = self._sizes
        chunks = min(_PROMPT_GRAPH_CHUNKS, most.max_seqs)
        shapes = [graph_shape(tokens, chunks, decodes) for tokens in cut_at(most.max_tokens, sizes)]
        # No step samples more sequences than there are.
        shapes = [replace(shape, sampled=min(shape.sampled, most.max_seqs)) for shape in shapes]
        return [self._graph(Packed((), shape, decodes, ())) for shape in shapes]

    def _whole(self) -> dict[int, PromptGraph]:
        longest = min(self._sizes.max_tokens, self._sizes.max_len, _WHOLE_GRAPH_TOKENS)
        return {
            length: self._graph(Packed((), Shape(length, 1, 0), 0, (WholePrompt(0, length, length),)))
            for length in planned_lengths(longest)
        }

    def _graph(self, packed: Packed) -> PromptGraph:
        """A graph for steps that can be padded to the shape of `packed`, which has no parts."""
        packed = replace(packed, shape=replace(packed.shape, patches=_GRAPH_PATCHES))
        array, views = self._empty(packed.shape)
        launch = partial(self._forward, views, packed, counted=True)
        return PromptGraph(packed, array, self._pool.graph(launch, packed.shape.tokens))

    def _prepare(self) -> None:
        """What prompts of any length take, so that no request waits for a compiler or a plan of the library's attention."""
        for tokens in _COMPILED_TOKENS:
            shape = graph_shape(min(tokens, self._sizes.max_tokens), 1)
            views = self._empty(shape)[1]
            self._pool.prepare(partial(self._forward, views, Packed((), shape, 0, ()), counted=False))
        for length in planned_lengths(min(self._sizes.max_tokens, self._sizes.max_len)):
            self._pool.prepare(partial(self._plan, length))

    def _plan(self, length: int) -> None:
        decoder = self._shared.decoder
        heads = decoder.config.num_heads
        rows = decoder.embedding.new_zeros(length, heads + 2 * decoder.config.num_kv_heads, decoder.config.head_dim)
        whole_prompt_attention(rows, heads)

    def _empty(self, shape: Shape) -> tuple[torch.Tensor, Unpacked]:
        """An array that patches an idle cell and whose tokens are all the padding row's, and its views."""
        padding = self._shared.rows.padding
        array = torch.zeros(sum(shape.lengths), dtype=torch.int64, device=self._shared.decoder.embedding.device)
        views = unpack(array, shape)
        views.cells.fill_(IDLE_CELL)
        views.rows.fill_(padding)
        views.sampled_rows.fill_(padding)
        return array, views
