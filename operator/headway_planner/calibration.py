"""The coefficients of a step model from steps that were measured.

`steps.py` has the form. Linear layers are the larger of two lines, so the samples are split by their tokens: below the split
the weights are read, above it they are multiplied. Each split makes a problem of non-negative least squares over relative
errors; the one whose model, with its maximum, explains the samples best is taken. All cells weigh the same: one that cuts a long
prompt has a kind of step for each chunk, and would otherwise count as much as dozens of those that a load mostly has.

`host_ms` and `a1_ms` are in every step together and are told apart only on an engine that runs ahead of its scheduler, where
a prompt's chunk reads the weights a second time; on others `host_ms` is 0. `prompt_end_ms` is found on those others only.
An engine that runs ahead decodes in graphs: there the measured batches, less what their context costs, are the model's `decode_sizes`.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from headway_planner import non_negative
from headway_planner.steps import Chunks, StepModel

_NEAR = 1.4  # times the floor
_FLOORS, _SPLITS = 8, 24  # tried


@dataclass(frozen=True, slots=True)
class StepSample:
    """Equal steps, measured.

    Attributes:
        cell: what was run; samples of one cell are kept or held out together.
        decodes: sequences that decoded.
        context: tokens of KV that they had together.
        tokens: prompt tokens.
        squares: sum of chunk * (2 * before + chunk) over the chunks.
        apart: the prompt tokens were computed in a pass of their own.
        ms: what a step took, begin to begin.
        ended: prompts whose last token was in the step.
    """

    cell: str
    decodes: int
    context: float
    tokens: int
    squares: float
    apart: bool
    ms: float
    ended: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """What the samples were measured on."""

    name: str
    gpus: int
    kv_tokens: int
    ahead: bool


def step_ms(model: StepModel, sample: StepSample) -> float:
    """What the model says of a sample."""
    chunks = Chunks(sample.tokens, sample.squares, sample.ended)
    return model.step_ms(sample.decodes, sample.context, chunks, apart=sample.apart)


def error(model: StepModel, sample: StepSample) -> float:
    """Relative: 0.05 is 5 % slower than measured."""
    return step_ms(model, sample) / sample.ms - 1


def fit(engine: Engine, samples: Sequence[StepSample]) -> StepModel:
    """The model of the least squared relative error.

    Raises:
        ValueError: too few samples, or one that is no time; the message says which.
    """
    bad = [one.cell for one in samples if not 0 < one.ms < math.inf]
    if bad:
        raise ValueError(f"{bad[0]}: a step must take more than 0 ms")
    if not any(one.decodes and not one.tokens for one in samples) or not any(one.tokens for one in samples):
        raise ValueError("steps with decodes alone and steps with prompt tokens are needed, at least one each")
    counts = sorted({count for one in samples for count in _linear(one)})
    splits = counts[:: 1 + len(counts) // _SPLITS]
    alone, beside = (_floors(engine, samples, decoding) for decoding in (False, True))
    weights = _weights(samples)
    models = (_fitted(engine, samples, weights, split, floors) for split in splits for floors in product(alone, beside))
    best = min(models, key=lambda model: sum(weights[one.cell] * error(model, one) ** 2 for one in samples))
    return replace(best, decode_sizes=_decode_sizes(best, samples)) if engine.ahead else best


def _decode_sizes(model: StepModel, samples: Sequence[StepSample]) -> tuple[tuple[int, float], ...]:
    """Of each batch that decoded alone, the mean of its steps without context."""
    times: dict[int, list[float]] = {}
    for one in samples:
        if one.decodes and not one.tokens:
            times.setdefault(one.decodes, []).append(one.ms - model.att_dec_ctx_ms * one.context)
    means = ((size, statistics.mean(times[size])) for size in sorted(times))
    return tuple((size, ms) for size, ms in means if ms > 0)


def _weights(samples: Sequence[StepSample]) -> Mapping[str, float]:
    """Of each sample, by its cell."""
    return {cell: 1 / count for cell, count in Counter(one.cell for one in samples).items()}


def _floors(engine: Engine, samples: Sequence[StepSample], decoding: bool) -> list[float]:
    """What the least time of a step with prompt tokens may be, alone or beside decodes: none, or one of such times."""
    times = sorted(one.ms for one in samples if one.tokens and (one.decodes > 0) is decoding)
    if not engine.ahead or not times:
        return [0.0]
    return [0.0, *(times[int(share * (len(times) - 1) / _FLOORS)] for share in range(_FLOORS))]


def held_out(samples: Iterable[StepSample], every: int) -> tuple[list[StepSample], list[StepSample]]:
    """The samples to fit, and those of each `every`-th cell to judge the fit by; 0 holds none out."""
    rows = list(samples)
    cells = list(dict.fromkeys(one.cell for one in rows))
    out = set(cells[every // 2 :: every]) if every else set()
    return [one for one in rows if one.cell not in out], [one for one in rows if one.cell in out]


def _linear(sample: StepSample) -> tuple[int, ...]:
    """Token counts of the passes over the linear layers."""
    if sample.apart and sample.tokens:
        return sample.decodes, sample.tokens
    return (sample.decodes + sample.tokens,)


def _fitted(
    engine: Engine,
    samples: Sequence[StepSample],
    weights: Mapping[str, float],
    split: int,
    floors: tuple[float, float],
) -> StepModel:
    # Steps near the floor say nothing of what lies below it.
    above = [one for one in samples if not one.tokens or one.ms > _NEAR * floors[one.decodes > 0]]
    roots = [math.sqrt(weights[one.cell]) for one in above]
    rows = [
        [root * cell / one.ms for cell in _row(one, split, engine.ahead)]
        for root, one in zip(roots, above, strict=True)
    ]
    host, a1, b1, a2, b2, pf, dec0, seq, ctx, end = non_negative.solve(rows, roots)
    return StepModel(
        name=engine.name,
        gpus=engine.gpus,
        host_ms=host,
        a1_ms=a1,
        b1_ms=b1,
        a2_ms=a2,
        b2_ms=b2,
        att_pf_ms=pf,
        att_dec0_ms=dec0,
        att_dec_seq_ms=seq,
        att_dec_ctx_ms=ctx,
        kv_tokens=engine.kv_tokens,
        ahead=engine.ahead,
        prompt_step_ms=floors[0],
        prompt_step_beside_ms=floors[1],
        prompt_end_ms=end,
    )


def _row(sample: StepSample, split: int, ahead: bool) -> list[float]:
    """What each coefficient is multiplied by, in the order of `StepModel`."""
    passes = _linear(sample)
    low = [count for count in passes if count <= split]
    high = [count for count in passes if count > split]
    decodes = (float(sample.decodes > 0), float(sample.decodes), sample.context)
    lines = (float(len(low)), float(sum(low)), float(len(high)), float(sum(high)))
    # Where the engine runs ahead, the least time of a step with a prompt has what its end costs: no sample tells them apart.
    ended = 0.0 if ahead else float(sample.ended)
    return [float(ahead), *lines, sample.squares, *decodes, ended]
