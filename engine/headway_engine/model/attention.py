"""Attention over the paged KV cache, behind an interface that kernels can implement too.

A back end turns the layout of a step into an `AttentionStep` once; each layer then calls `attend`, which first writes the
new keys and values into their slots and then lets every new token look at its sequence up to itself. The cache layout is
that of `core/batch.py`; a slot is `block * block_size + row`.

The torch back end here runs on cpu and cuda and is the reference for kernels:

- decodes (one new token each) are grouped by similar context length; a group gathers its blocks into one padded tensor
  and needs one call. The query heads that share a KV head are laid out as query rows, so no head is copied.
- a prompt's first chunk attends to its own keys and values with no gather; later chunks gather their prefix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - as torch writes it

# A decode joins a group when its context is at least this share of the group's longest: padding is read like real context,
# so it may cost at most a quarter, while each further group costs three calls per layer.
MIN_FILL = 0.75


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Which tokens a step computes, as attention sees it. Decodes come first.

    Attributes:
        query_lens: new tokens of each sequence.
        context_lens: tokens of each sequence in the cache after this step, the new ones included.
        block_tables: blocks of each sequence.
        num_decodes: leading sequences with one new token.
        slots: cache slot of each new token, on the device.
        block_size: tokens per block.
        dtype: of queries, keys and values.
    """

    query_lens: Sequence[int]
    context_lens: Sequence[int]
    block_tables: Sequence[tuple[int, ...]]
    num_decodes: int
    slots: torch.Tensor
    block_size: int
    dtype: torch.dtype


class AttentionStep(Protocol):
    """One step's attention, used by all layers."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Store the new keys and values, then attend.

        Args:
            query: `[tokens, num_heads, head_dim]`, rotated.
            key: `[tokens, num_kv_heads, head_dim]`, rotated.
            value: like `key`.
            cache: the layer's keys and values, each `[num_blocks, block_size, num_kv_heads, head_dim]`.

        Returns:
            `[tokens, num_heads * head_dim]`
        """


# Called once per step.
AttentionBackend = Callable[[StepLayout], AttentionStep]


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Decodes of similar context: their rows, their padded block table, and the mask over the padding."""

    rows: torch.Tensor | None  # None: all decodes, in order
    table: torch.Tensor  # [group, blocks], flattened
    mask: torch.Tensor  # [group, 1, 1, blocks * block_size], added to the scores


@dataclass(frozen=True, slots=True)
class _PrefillChunk:
    """One chunk: its rows, and the prefix it gathers (no table: it is the first chunk)."""

    start: int
    end: int
    context: int
    table: torch.Tensor | None
    mask: torch.Tensor | None  # [query, context]


class TorchAttention:
    """`scaled_dot_product_attention` on gathered blocks."""

    def __init__(self, layout: StepLayout) -> None:
        device = layout.slots.device
        self._slots = layout.slots
        self._decodes = layout.num_decodes
        self._groups = [_decode_group(layout, rows, device) for rows in group_by_length(layout)]
        self._chunks = list(_prefill_chunks(layout, device))

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """See `AttentionStep.attend`."""
        keys, values = cache
        keys.view(-1, *key.shape[1:]).index_copy_(0, self._slots, key)
        values.view(-1, *value.shape[1:]).index_copy_(0, self._slots, value)
        if len(self._groups) == 1 and not self._chunks:  # the common step: every sequence decodes
            return _decode(query, self._groups[0], keys, values)
        out = query.new_empty(query.shape[0], query.shape[1] * query.shape[2])
        for group in self._groups:
            rows = slice(0, self._decodes) if group.rows is None else group.rows
            out[rows] = _decode(query[rows], group, keys, values)
        for chunk in self._chunks:
            new = slice(chunk.start, chunk.end)
            out[new] = _prefill(query[new], key[new], value[new], chunk, cache)
        return out


def _decode(query: torch.Tensor, group: _DecodeGroup, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    count, heads, dim = query.shape
    kv_heads = keys.shape[2]
    # [group, context, kv_heads, dim] -> [group, kv_heads, context, dim], a view.
    key = keys.index_select(0, group.table).view(count, -1, kv_heads, dim).transpose(1, 2)
    value = values.index_select(0, group.table).view(count, -1, kv_heads, dim).transpose(1, 2)
    mask = group.mask.expand(count, kv_heads, heads // kv_heads, -1)
    out = F.scaled_dot_product_attention(query.view(count, kv_heads, heads // kv_heads, dim), key, value, mask)
    return out.reshape(count, heads * dim)


def _prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    chunk: _PrefillChunk,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    if chunk.table is not None:
        key, value = (side.index_select(0, chunk.table).flatten(0, 1)[: chunk.context] for side in cache)
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),
        key.transpose(0, 1).unsqueeze(0),
        value.transpose(0, 1).unsqueeze(0),
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.squeeze(0).transpose(0, 1).flatten(1)


def group_by_length(layout: StepLayout) -> list[list[int]]:
    """Decodes in groups of similar context; each decode is in one group."""
    groups: list[list[int]] = []
    floor = 0.0
    for row in sorted(range(layout.num_decodes), key=lambda row: -layout.context_lens[row]):
        # A few blocks more or less are no reason for a group of their own.
        if not groups or layout.context_lens[row] + 2 * layout.block_size < floor:
            groups.append([])
            floor = layout.context_lens[row] * MIN_FILL
        groups[-1].append(row)
    return [sorted(group) for group in groups]


def _decode_group(layout: StepLayout, rows: list[int], device: torch.device) -> _DecodeGroup:
    longest = max(layout.context_lens[row] for row in rows)
    blocks = -(-longest // layout.block_size)
    # Block 0 belongs to no sequence: it fills the table behind the end of shorter ones.
    table = [block for row in rows for block in (*layout.block_tables[row], *(0,) * blocks)[:blocks]]
    lengths = torch.tensor([layout.context_lens[row] for row in rows], device=device)
    beyond = torch.arange(blocks * layout.block_size, device=device) >= lengths[:, None]
    mask = torch.zeros(beyond.shape, dtype=layout.dtype, device=device).masked_fill_(beyond, float("-inf"))
    return _DecodeGroup(
        rows=None if len(rows) == layout.num_decodes else torch.tensor(rows, device=device),
        table=torch.tensor(table, device=device),
        mask=mask[:, None, None, :],
    )


def _prefill_chunks(layout: StepLayout, device: torch.device) -> list[_PrefillChunk]:
    chunks = []
    start = layout.num_decodes
    for index in range(layout.num_decodes, len(layout.query_lens)):
        length, context = layout.query_lens[index], layout.context_lens[index]
        table = mask = None
        if context > length:
            blocks = -(-context // layout.block_size)
            table = torch.tensor(layout.block_tables[index][:blocks], device=device)
            mask = torch.full((length, context), float("-inf"), dtype=layout.dtype, device=device)
            mask.triu_(context - length + 1)
        chunks.append(_PrefillChunk(start, start + length, context, table, mask))
        start += length
    return chunks


BACKENDS: dict[str, AttentionBackend] = {"torch": TorchAttention}
