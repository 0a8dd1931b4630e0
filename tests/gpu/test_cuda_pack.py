"""How prompts are handed to the library's attention."""

from dataclasses import fields, replace

import pytest
import torch

pytest.importorskip("triton")

from headway_engine.core.batch import Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.kernels.decoder import WholePrompt
from headway_engine.kernels.rows import IDLE_CELL
from headway_engine.runtime.cuda_pack import (
    WHOLE_LENGTHS,
    cut_at,
    graph_shape,
    laid_out,
    pack,
    planned_lengths,
    unpack,
)


def chunk(length: int, start: int = 0) -> Chunk:
    return Chunk(0, (1,) * length, start, (1,), True, SamplingParams(), 0, 0)


@pytest.mark.parametrize("longest", [897, 1024, 1025, 3900, 4096, 5000, 32768, 100_000])
def test_a_prompt_is_padded_to_a_length_that_has_its_plan_and_by_little(longest: int) -> None:
    planned = planned_lengths(longest)
    for length in range(897, min(longest, WHOLE_LENGTHS[-1]) + 1, 7):
        (whole,) = pack([chunk(length)], [0], 0, allow_whole=True).whole
        assert (whole.start, whole.end) == (0, length)
        assert whole.padded in planned
        assert 0 <= whole.padded - length < max(128, length / 7)


def test_short_prompts_later_chunks_and_graphs_keep_to_the_paged_kernel() -> None:
    assert planned_lengths(896) == ()
    assert pack([chunk(896)], [0], 0, allow_whole=True).whole == ()
    assert pack([chunk(2000, start=16)], [0], 0, allow_whole=True).whole == ()
    assert pack([chunk(2000)], [0], 0, allow_whole=False).whole == ()
    packed = pack([chunk(1), chunk(1000), chunk(5), chunk(1030)], [0, 1, 2, 3], 1, allow_whole=True)
    assert packed.whole == (WholePrompt(1, 1001, 1024), WholePrompt(1006, 2036, 1152))


def test_a_step_padded_to_a_graph_is_unpacked_as_it_was_packed() -> None:
    chunks = [chunk(1, start=7), chunk(1, start=9), chunk(5, start=16)]
    shape = replace(graph_shape(64, max_chunks=4, decodes=32), patches=5)
    packed = pack(chunks, [3, 4, 5], 2, allow_whole=False)
    array = laid_out(packed, ([70, 71, 72], [-1, 6, 7]), shape, padding_row=8)
    views = unpack(torch.from_numpy(array), shape)
    assert views.cells.tolist() == [70, 71, 72] + [IDLE_CELL] * 3
    assert views.values.tolist() == [-1, 6, 7] + [0] * 3
    assert views.decodes.tolist() == [2]
    assert views.positions.tolist() == [7, 9, 16, 17, 18, 19, 20] + [0] * 57
    assert views.rows.tolist() == [3, 4, 5, 5, 5, 5, 5] + [8] * 57
    assert views.sampled_flat[:3].tolist() == [0, 1, 6]
    assert views.sampled_rows.tolist() == [3, 4, 5] + [8] * 33
    assert views.tiles.tolist() == [[2, 5, 16, 5]] + [[0] * 4] * 3
    begins = [getattr(views, part.name).data_ptr() - array.ctypes.data for part in fields(views)]
    assert [begin % 16 for begin in begins] == [0] * 9


@pytest.mark.parametrize("patches", [0, 1, 2])
def test_a_step_of_its_own_sizes_holds_its_patches_and_nothing_else(patches: int) -> None:
    packed = pack([chunk(1, start=7), chunk(6)], [3, 4], 1, allow_whole=False)
    shape = replace(packed.shape, patches=patches)
    views = unpack(torch.from_numpy(laid_out(packed, ([70] * patches, [5] * patches), shape, padding_row=8)), shape)
    assert views.cells.tolist() == [70] * patches + [IDLE_CELL] * (patches % 2)
    assert views.positions.tolist() == [7, 0, 1, 2, 3, 4, 5]
    assert views.rows.tolist() == [3] + [4] * 6
    assert (views.sampled_flat.tolist(), views.sampled_rows.tolist()) == ([0, 6], [3, 4])
    assert views.tiles.tolist() == [[1, 4, 0, 6]]


@pytest.mark.parametrize(
    ("most", "cut"), [(5000, [512, 1024, 2048]), (2048, [512, 1024, 2048]), (2000, [512, 1024, 2000]), (300, [300])]
)
def test_the_largest_step_has_a_graph_and_none_is_larger(most: int, cut: list[int]) -> None:
    assert cut_at(most, (512, 1024, 2048)) == cut
