"""The step model of an engine, learnt from its own counters: what a policy needs, with nothing known beforehand.

Between two samples an engine ran S steps, made G tokens and computed P prompt tokens in T ms of steps:

    T = step * S + sequence * G + token * P

fitted by least squares over every engine of the fleet (all alike), the old forgotten with `HALF_LIFE` observations; no
coefficient is negative. While batches have not varied, the constant and the cost per sequence cannot be told apart: then the
constant is taken as zero. Cost is proportional to the batch so, the most that it can be, and no capacity is believed that was
not seen. For the same reason what the fit does not explain is added to every cost, up to a bound.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from headway_planner.non_negative import eliminated

HALF_LIFE = 300.0  # observations
ENOUGH, ENOUGH_TOKENS = 10.0, 100.0  # observations and output tokens before anything is believed
MOST_ADDED = 0.15  # of the residual: noise of single seconds, as on a shared CPU, averages out
RIDGE = 1e-4  # share of the steps' weight that pulls the constant to zero: decides only when nothing else does
UNKNOWN_KV = 2**31  # of an engine that does not say how much it holds


class StepsDone(NamedTuple):  # one is made for each engine of a pass, and a frozen dataclass costs twice as much
    """What one engine did between two samples. `busy_ms`: the time of the steps together."""

    steps: int
    output_tokens: int
    prompt_tokens: int
    busy_ms: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Sums of the least squares. `squares`: of (S, G, P) with each other, row by row; `products`: with T."""

    squares: tuple[float, ...] = (0.0,) * 9
    products: tuple[float, ...] = (0.0,) * 3
    time_square: float = 0.0
    observations: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class LearntSteps:
    """A `StepCost` of three coefficients, milliseconds; attention is inside of them, at the contexts that were seen.

    Attributes:
        residual: root mean square of what the fit leaves, as a share of the time; the coefficients are raised by it, by `MOST_ADDED` at most.
    """

    step_ms: float
    sequence_ms: float
    token_ms: float
    kv_tokens: int
    residual: float = 0.0

    @property
    def prefill_token_ms(self) -> float:
        """What one prompt token adds to a step."""
        return self.token_ms

    @property
    def prefill_square_ms(self) -> float:
        """Inside of `token_ms`."""
        return 0.0

    @property
    def prompt_end_ms(self) -> float:
        """Inside of `token_ms` too."""
        return 0.0

    def decode_ms(self, sequences: int, context: float) -> float:
        """One step in which `sequences` decode; the context counts as it was on average."""
        del context
        return self.step_ms + self.sequence_ms * sequences


def learn(fit: Fit, done: Iterable[StepsDone]) -> Fit:
    """The fit with what the engines did in one more interval. An interval without steps teaches nothing, nor does nonsense."""
    rows = [one for one in done if one.steps > 0 and 0 < one.busy_ms < math.inf]
    if not rows:
        return fit
    keep = 0.5 ** (1 / HALF_LIFE)
    squares, products = [keep * one for one in fit.squares], [keep * one for one in fit.products]
    time_square = keep * fit.time_square
    # Engines of one moment are one observation in weight, so that a large fleet does not forget in a minute.
    share = 1 / len(rows)
    for row in rows:
        counts = (float(row.steps), float(row.output_tokens), float(row.prompt_tokens))
        for index, one in enumerate(counts):
            products[index] += share * one * row.busy_ms
            for other in range(3):
                squares[3 * index + other] += share * one * counts[other]
        time_square += share * row.busy_ms * row.busy_ms
    return Fit(
        tuple(squares),
        tuple(products),
        time_square,
        keep * fit.observations + 1,
        keep * fit.output_tokens + sum(row.output_tokens for row in rows),
    )


@lru_cache(maxsize=64)  # a decision asks for the model of the same fit many times; fleets, in turn
def learnt(fit: Fit, kv_tokens: int) -> LearntSteps | None:
    """The model, None while too little was seen. `kv_tokens` 0: not known."""
    if fit.observations < ENOUGH or fit.output_tokens < ENOUGH_TOKENS or fit.time_square <= 0:
        return None
    squares = list(fit.squares)
    squares[0] *= 1 + RIDGE
    best, least = None, math.inf
    for size in (3, 2, 1):
        for used in combinations(range(3), size):
            found = _solved(squares, fit.products, used)
            if found is None or min(found) < 0:
                continue
            left = _left(squares, fit, found)
            if left < least * (1 - 1e-9):
                best, least = found, left
    if best is None:
        return None
    residual = math.sqrt(max(0.0, _left(fit.squares, fit, best)) / fit.time_square)
    step, sequence, token = (one * (1 + min(residual, MOST_ADDED)) for one in best)
    if step + sequence <= 0:
        return None
    return LearntSteps(step, sequence, token, kv_tokens or UNKNOWN_KV, residual)


def _left(squares: Sequence[float], fit: Fit, found: Sequence[float]) -> float:
    """The squared time that coefficients do not explain."""
    explained = sum(one * product for one, product in zip(found, fit.products, strict=True))
    shape = sum(found[row] * found[column] * squares[3 * row + column] for row in range(3) for column in range(3))
    return fit.time_square - 2 * explained + shape


def _solved(squares: Sequence[float], products: Sequence[float], used: Sequence[int]) -> tuple[float, ...] | None:
    """The coefficients of the `used` columns, zero for the others; None when they are not told apart."""
    values = eliminated([squares[0:3], squares[3:6], squares[6:9]], products, used)
    if values is None:
        return None
    found = [0.0] * 3
    for column, value in zip(used, values, strict=True):
        found[column] = value
    return tuple(found)
