"""Treats the rows of logits whose sampling takes more than temperature, top-p and top-k.

In this order:

    constraint   tokens that may not come next are put out of reach
    bias         x[t] += logit_bias[t]
    penalties    x[t] = x[t] / r or x[t] * r  where t is in prompt or answer (divided where positive, r = repetition_penalty)
                 x[t] -= frequency_penalty * times(t) + presence_penalty * (times(t) > 0)   of t in the answer
    min-p        out of reach where the probability is below min_p times the best one's, at the row's temperature

"Out of reach" is a large negative number and not minus infinity: a row with a logit that is not finite is a failed row, and
has to stay one. What comes out is drawn like any other row. Log probabilities are of the logits before all this.

Works on any device; nothing here waits for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headway_engine.core.batch import Careful, StepFailure, StepResult
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.logprobs import Candidate, TokenLogprobs
from headway_engine.core.request import SamplingParams

# Its sum over a vocabulary stays far inside float32, and no difference to a real logit survives `exp`.
OUT_OF_REACH = -1e30
_WORD = 32


@dataclass(frozen=True, slots=True)
class CarefulRow:
    """A row of logits and how to treat it."""

    sampling: SamplingParams
    careful: Careful


@dataclass(frozen=True, slots=True)
class Masks:
    """Which tokens may come next.

    Attributes:
        words: int32 `[rows, ceil(vocabulary / 32)]`, see `Constraint.fill`; None when every row may draw every token.
        failures: by row, where a constraint did not say.
    """

    words: npt.NDArray[np.int32] | None
    failures: dict[int, StepFailure]


@dataclass(frozen=True, slots=True)
class Scores:
    """Log probabilities of rows.

    Attributes:
        chosen: float32 `[rows]`, of the sampled tokens.
        top_ids: int64 `[rows, k]`, best first.
        top: float32 `[rows, k]`, theirs.
    """

    chosen: torch.Tensor
    top_ids: torch.Tensor
    top: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All three."""
        return self.chosen, self.top_ids, self.top


def masks(rows: Sequence[CarefulRow], vocabulary: int) -> Masks:
    """Ask the rows' constraints; runs on the host."""
    failures: dict[int, StepFailure] = {}
    if all(row.careful.constraint is None for row in rows):
        return Masks(None, failures)
    words = np.full((len(rows), -(-vocabulary // _WORD)), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        constraint = row.careful.constraint
        if constraint is not None:
            try:
                constraint.fill(words[index])
            except ConstraintError as error:
                words[index] = -1
                failures[index] = StepFailure(str(error))
    return Masks(words, failures)


def reshape(logits: torch.Tensor, rows: Sequence[CarefulRow], words: torch.Tensor | None) -> torch.Tensor:
    """The logits to draw from.

    Args:
        logits: float32 `[rows, vocabulary]`; left as it is.
        rows: how to treat each.
        words: `Masks.words` on the device of the logits.
    """
    vocabulary = logits.shape[-1]
    if words is not None:
        bits = torch.arange(_WORD, dtype=torch.int32, device=logits.device)
        allowed = (words[:, :, None] >> bits & 1).bool().flatten(1)[:, :vocabulary]
        logits = torch.where(allowed | ~logits.isfinite(), logits, OUT_OF_REACH)
    if any(row.sampling.logit_bias for row in rows):
        cells = [(index, token, bias) for index, row in enumerate(rows) for token, bias in row.sampling.logit_bias]
        logits = logits + _scattered(logits, *zip(*cells, strict=True))
    if any(row.sampling.penalized for row in rows):
        logits = _penalized(logits, rows)
    if any(row.sampling.min_p > 0 for row in rows):
        # exp((x - best) / T) >= min_p; a row that does not want it gets a bound that nothing is below.
        room = [row.sampling.temperature * math.log(row.sampling.min_p or 1) for row in rows]
        bound = logits.amax(-1, keepdim=True) + _column(room, logits)
        wanted = _column([float(row.sampling.min_p > 0) for row in rows], logits) > 0
        logits = torch.where(wanted & (logits < bound), OUT_OF_REACH, logits)
    return logits


def score(logits: torch.Tensor, tokens: torch.Tensor, rows: Sequence[CarefulRow]) -> Scores | None:
    """Log probabilities of the sampled tokens and the best candidates; None when no row wants them.

    Args:
        logits: float32 `[rows, vocabulary]`, as the model made them.
        tokens: int64 `[rows]`; below 0 where sampling failed.
        rows: what each wants.
    """
    wanted = [row.sampling.logprobs for row in rows if row.sampling.logprobs is not None]
    if not wanted:
        return None
    logprobs = logits.log_softmax(-1)
    top, top_ids = logprobs.topk(min(max(wanted), logits.shape[-1]), dim=-1)
    return Scores(logprobs.gather(1, tokens.clamp(min=0)[:, None]).squeeze(1), top_ids, top)


def report(tokens: Sequence[int | StepFailure], scores: Scores | None, rows: Sequence[CarefulRow]) -> list[StepResult]:
    """The tokens of the rows, each with its candidates where it wants them; `scores` are on the host."""
    if scores is None:
        return list(tokens)
    chosen, top_ids, top = (tensor.tolist() for tensor in scores.tensors())
    results: list[StepResult] = []
    for index, (token, row) in enumerate(zip(tokens, rows, strict=True)):
        count = row.sampling.logprobs
        if isinstance(token, StepFailure) or count is None:
            results.append(token)
            continue
        best = zip(top_ids[index][:count], top[index][:count], strict=True)
        results.append(TokenLogprobs(Candidate(token, chosen[index]), tuple(Candidate(*one) for one in best)))
    return results


def _penalized(logits: torch.Tensor, rows: Sequence[CarefulRow]) -> torch.Tensor:
    known = [(index, token) for index, row in enumerate(rows) for token in row.careful.tokens]
    own = [(index, token) for index, row in enumerate(rows) for token in row.careful.tokens[row.careful.prompt_len :]]
    seen = _counted(logits, known) > 0
    times = _counted(logits, own)
    repetition = _column([row.sampling.repetition_penalty for row in rows], logits)
    frequency = _column([row.sampling.frequency_penalty for row in rows], logits)
    presence = _column([row.sampling.presence_penalty for row in rows], logits)
    less = torch.where(logits > 0, logits / repetition, logits * repetition)
    return torch.where(seen, less, logits) - frequency * times - presence * (times > 0)


def _counted(like: torch.Tensor, cells: Sequence[tuple[int, int]]) -> torch.Tensor:
    if not cells:
        return torch.zeros_like(like)
    rows, columns = zip(*cells, strict=True)
    return _scattered(like, rows, columns, [1.0] * len(cells))


def _scattered(
    like: torch.Tensor, rows: Sequence[int], columns: Sequence[int], values: Sequence[float]
) -> torch.Tensor:
    """Zeros like `like` with the values added at their cells."""
    index = (_sent(rows, torch.int64, like), _sent(columns, torch.int64, like))
    return torch.zeros_like(like).index_put_(index, _sent(values, like.dtype, like), accumulate=True)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return _sent(values, like.dtype, like)[:, None]


def _sent(values: Sequence[float], dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    """On the device of `like`, without waiting for it."""
    return send(torch.tensor(values, dtype=dtype), like.device)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device, without waiting for it: only pinned memory is copied in the background."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
