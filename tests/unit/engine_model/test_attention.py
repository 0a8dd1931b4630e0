"""The torch attention back end against plain attention written out."""

import math

import pytest
import torch

from headway_engine.model.attention import MIN_FILL, StepLayout, TorchAttention, group_by_length

BLOCK, KV_HEADS, DIM = 4, 2, 8


def layout_of(sequences: list[tuple[int, int]], block_size: int = BLOCK) -> StepLayout:
    """A layout of (new tokens, context) pairs, decodes first, whose blocks are scattered over the cache."""
    tables, slots, next_block = [], [], 1
    for new, context in sequences:
        count = -(-context // block_size)
        table = tuple(next_block + 2 * index for index in reversed(range(count)))
        next_block += 2 * count
        tables.append(table)
        slots += [table[p // block_size] * block_size + p % block_size for p in range(context - new, context)]
    return StepLayout(
        query_lens=[new for new, _ in sequences],
        context_lens=[context for _, context in sequences],
        block_tables=tables,
        num_decodes=next((i for i, (new, _) in enumerate(sequences) if new > 1), len(sequences)),
        slots=torch.tensor(slots),
        block_size=block_size,
        dtype=torch.float32,
    )


def written_out(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: StepLayout) -> torch.Tensor:
    """Each query row alone, over its own prefix read slot by slot."""
    out, row = [], 0
    for new, context, table in zip(layout.query_lens, layout.context_lens, layout.block_tables, strict=True):
        for position in range(context - new, context):
            slots = [table[p // BLOCK] * BLOCK + p % BLOCK for p in range(position + 1)]
            heads = []
            for head in range(query.shape[1]):
                kv = head // (query.shape[1] // KV_HEADS)
                scores = keys.flatten(0, 1)[slots, kv] @ query[row, head] / math.sqrt(DIM)
                heads.append(scores.softmax(-1) @ values.flatten(0, 1)[slots, kv])
            out.append(torch.cat(heads))
            row += 1
    return torch.stack(out)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize(
    "sequences",
    [
        pytest.param([(1, 1)], id="first token alone"),
        pytest.param([(1, 9), (1, 4), (1, 5)], id="decodes of similar length"),
        pytest.param([(1, 3), (1, 60), (1, 58), (1, 21)], id="decodes in several groups"),
        pytest.param([(7, 7)], id="a whole prompt"),
        pytest.param([(5, 17)], id="a later chunk"),
        pytest.param([(1, 12), (1, 50), (6, 6), (3, 11), (1, 1), (1, 8)], id="everything at once"),
    ],
)
def test_every_token_sees_its_own_prefix_and_nothing_else(sequences: list[tuple[int, int]], heads: int) -> None:
    torch.manual_seed(3)
    layout = layout_of(sequences)
    tokens = sum(layout.query_lens)
    blocks = 2 + max(max(table) for table in layout.block_tables)
    keys, values = torch.randn(2, blocks, BLOCK, KV_HEADS, DIM).unbind(0)
    query = torch.randn(tokens, heads, DIM)
    key, value = torch.randn(2, tokens, KV_HEADS, DIM).unbind(0)
    out = TorchAttention(layout).attend(query, key, value, (keys, values))
    assert torch.equal(keys.flatten(0, 1)[layout.slots], key)
    assert torch.equal(values.flatten(0, 1)[layout.slots], value)
    torch.testing.assert_close(out, written_out(query, keys, values, layout), atol=1e-5, rtol=1e-5)


def test_groups_hold_each_decode_once_and_waste_at_most_a_quarter() -> None:
    contexts = [5, 900, 400, 1000, 17, 760, 410, 33, 1]
    layout = layout_of([(1, context) for context in contexts], block_size=16)
    groups = group_by_length(layout)
    assert sorted(row for group in groups for row in group) == list(range(len(contexts)))
    for group in groups:
        lengths = [contexts[row] for row in group]
        assert min(lengths) >= max(lengths) * MIN_FILL - 2 * 16
