"""Draws the rows again whose sampling is not plain: penalties, biases, min-p, constraints, log probabilities.

A launch draws all its rows as plain ones, in one graph up to the token. For the careful ones among them the residual stream
before the head is still there: their logits are computed once more, treated (`model/careful.py`), drawn by the same kernels, and
the new token takes the place of the other in the row table. The constraints are asked on the host meanwhile, while the
device computes the launch.

What comes next of such a row depends on its token, which the host has to see first: careful rows never run ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headway_engine.core.batch import Chunk, StepFailure, StepResult
from headway_engine.kernels.decoder import FusedDecoder
from headway_engine.kernels.rows import NUM_SAMPLED
from headway_engine.kernels.sampling import Sampled, sample_rows
from headway_engine.model.careful import CarefulRow, Scores, masks, report, reshape, score, send

NOT_FINITE = StepFailure("the model produced logits that are not finite")


@dataclass(frozen=True, slots=True)
class CarefulPending:
    """The results of careful rows, on their way to the host.

    Attributes:
        places: where they stand among the sampled rows of the launch.
    """

    places: list[int]
    rows: list[CarefulRow]
    failures: dict[int, StepFailure]
    tokens: torch.Tensor
    scores: Scores | None
    copied: torch.cuda.Event

    def wait(self) -> list[StepResult]:
        """One for each of `places`."""
        self.copied.synchronize()
        drawn = [
            self.failures.get(index, NOT_FINITE if token < 0 else token)
            for index, token in enumerate(self.tokens.tolist())
        ]
        return report(drawn, self.scores, self.rows)


def redraw(
    decoder: FusedDecoder, table: torch.Tensor, hidden: torch.Tensor, chunks: Sequence[Chunk], row_ids: Sequence[int]
) -> CarefulPending | None:
    """Draw the careful rows of a launch again; None when it has none. Does not wait for the device.

    Args:
        decoder: for its head.
        table: the row table, which the launch has moved on.
        hidden: `[rows, hidden]`, the residual stream of the sampled rows, in the order of the chunks that sample.
        chunks: of the launch.
        row_ids: theirs.
    """
    sampled = [(chunk, row) for chunk, row in zip(chunks, row_ids, strict=True) if chunk.sample]
    careful = [(place, *one) for place, one in enumerate(sampled) if one[0].careful is not None]
    if not careful:
        return None
    device = hidden.device
    places = [place for place, _, _ in careful]
    rows = [CarefulRow(chunk.sampling, chunk.careful) for _, chunk, _ in careful if chunk.careful is not None]

    def sent(values: list[int]) -> torch.Tensor:
        return send(torch.tensor(values, dtype=torch.int64), device)

    raw = decoder.logits(hidden[sent(places)]).float()
    mask = masks(rows, raw.shape[-1])
    words = None if mask.words is None else send(torch.from_numpy(mask.words), device)
    ids = sent([row for _, _, row in careful])
    table.index_put_((ids, sent([NUM_SAMPLED])), sent([chunk.num_sampled for _, chunk, _ in careful]))
    positions = sent([chunk.start + len(chunk.token_ids) - 1 for _, chunk, _ in careful])
    flat = torch.arange(len(careful), device=device)
    out = torch.empty(1, len(careful), dtype=torch.int64, device=device)
    one_slot = torch.zeros(1, dtype=torch.int64, device=device)
    sample_rows(reshape(raw, rows, words).contiguous(), Sampled(ids, flat, positions, table, out, one_slot))
    scores = score(raw, out[0], rows)
    if scores is not None:
        scores = Scores(*(_to_host(tensor) for tensor in scores.tensors()))
    tokens = _to_host(out[0])
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch ships it untyped
    copied.record()
    return CarefulPending(places, rows, mask.failures, tokens, scores, copied)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
