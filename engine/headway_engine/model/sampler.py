"""Draws the next token of each row of logits.

Greedy rows take the maximum. The others need one uniform number each, hashed from the request's seed and the count of
tokens it has sampled: the same request draws the same tokens whatever shares its batch. The number picks from the
cumulated probabilities.

Rows whose sampling is not plain are treated first (`model/careful.py`).

top-k and top-p look at the largest `CANDIDATES` logits only, sorted. Their probability mass is known exactly, so a row
whose top-p reaches beyond them is seen, and only then the whole vocabulary is sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headway_engine.core.batch import Careful, StepFailure, StepResult
from headway_engine.core.request import SamplingParams
from headway_engine.model.careful import CarefulRow, masks, report, reshape, score

# Enough for practically every top-p below 1 on a trained model; sorting 152,000 logits takes 30 times as long.
CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Draw:
    """How to sample one row; see the fields of the same name in `core/batch.py`."""

    sampling: SamplingParams
    seed: int
    num_sampled: int
    careful: Careful | None = None

    @property
    def greedy(self) -> bool:
        """Whether the largest logit wins without a random number."""
        return self.sampling.temperature == 0 or self.sampling.top_k == 1

    @property
    def bounded(self) -> bool:
        """Whether some of the vocabulary is cut off."""
        return self.sampling.top_k > 0 or self.sampling.top_p < 1

    def uniform(self) -> float:
        """A number in [0, 1) that depends on the seed and the count alone (splitmix64)."""
        x = (self.seed * 0xD1342543DE82EF95 + (self.num_sampled + 1) * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((x ^ (x >> 31)) >> 11) / (1 << 53)


_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Likeliest:
    """The largest logit of each row.

    Attributes:
        tokens: int64, `[rows]`; anything where a logit is not finite.
        finite: bool, `[rows]`; whether all logits are.
    """

    tokens: torch.Tensor
    finite: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> "Likeliest":
        """Found by torch."""
        # A sum is finite exactly when all its terms are: they are float32 and far from its range.
        return Likeliest(logits.argmax(-1), logits.sum(-1).isfinite())


def sample(logits: torch.Tensor, draws: Sequence[Draw], likeliest: Likeliest | None = None) -> tuple[StepResult, ...]:
    """The next token of each row.

    Args:
        logits: float32, `[len(draws), vocabulary]`; may be written.
        draws: how to sample each row.
        likeliest: of these logits, where it is known.

    Returns:
        A token per row, or a failure for a row whose logits are not finite or whose constraint met a limit.
    """
    places = [place for place, draw in enumerate(draws) if draw.careful is not None]
    if not places:
        return _sample(logits, draws, likeliest or Likeliest.of(logits))
    rows = [CarefulRow(draw.sampling, draw.careful) for draw in draws if draw.careful is not None]
    index = torch.tensor(places, device=logits.device)
    own = logits[index]
    mask = masks(rows, logits.shape[-1])
    logits[index] = reshape(own, rows, None if mask.words is None else torch.from_numpy(mask.words))
    tokens = _sample(logits, draws, Likeliest.of(logits))
    results: list[StepResult] = list(tokens)
    drawn = [mask.failures.get(row, tokens[place]) for row, place in enumerate(places)]
    ids = torch.tensor([-1 if isinstance(token, StepFailure) else token for token in drawn], device=logits.device)
    for place, result in zip(places, report(drawn, score(own, ids, rows), rows), strict=True):
        results[place] = result
    return tuple(results)


def _sample(logits: torch.Tensor, draws: Sequence[Draw], likeliest: Likeliest) -> tuple[int | StepFailure, ...]:
    tokens, finite = likeliest.tokens, likeliest.finite
    whole = [row for row, draw in enumerate(draws) if not draw.greedy and not draw.bounded]
    bounded = [row for row, draw in enumerate(draws) if not draw.greedy and draw.bounded]
    for rows, pick in ((whole, _pick_whole), (bounded, _pick_bounded)):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            tokens[index] = pick(logits[index], [draws[row] for row in rows])
    return tuple(
        token if ok else StepFailure("the model produced logits that are not finite")
        for token, ok in zip(tokens.tolist(), finite.tolist(), strict=True)
    )


def _probabilities(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    temperatures = _column([draw.sampling.temperature for draw in draws], logits)
    # The maximum goes first: a tiny temperature must not push the difference beyond float32.
    return ((logits - logits.amax(-1, keepdim=True)) / temperatures).softmax(-1)


def _pick_whole(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    return _invert(_probabilities(logits, draws), draws)


def _pick_bounded(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    vocabulary = logits.shape[-1]
    top_k = [min(draw.sampling.top_k or vocabulary, vocabulary) for draw in draws]
    top_p = _column([draw.sampling.top_p for draw in draws], logits)
    probabilities = _probabilities(logits, draws)
    count = min(vocabulary, max([CANDIDATES, *(k for k in top_k if k < vocabulary)]))
    while True:
        kept, ids = probabilities.topk(count, dim=-1)  # descending
        ranks = torch.arange(count, device=logits.device)
        by_k = ranks < torch.tensor(top_k, device=logits.device)[:, None]
        kept = kept * by_k
        # top-p counts the mass that top-k left: all of it where top-k is off.
        mass = torch.where(by_k[:, -1:], probabilities.sum(-1, keepdim=True), kept.sum(-1, keepdim=True))
        before = kept.cumsum(-1) - kept
        reached = (before[:, -1:] + kept[:, -1:] >= top_p * mass) | ~by_k[:, -1:]
        if count == vocabulary or bool(reached.all()):
            break
        count = vocabulary
    # The first token that reaches top_p is kept; the best one always is.
    kept = kept * ((before < top_p * mass) | (ranks == 0))
    return ids.gather(1, _invert(kept, draws)[:, None]).squeeze(1)


def _invert(weights: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Index of the first cumulated weight above the row's uniform number times the total."""
    cumulated = weights.double().cumsum(-1)
    uniform = torch.tensor([draw.uniform() for draw in draws], dtype=torch.float64, device=weights.device)
    target = uniform[:, None] * cumulated[:, -1:]
    index = torch.searchsorted(cumulated, target, right=True)
    return index.clamp_(max=weights.shape[-1] - 1).squeeze(1)


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
