"""Batch limits from the step model: as many prompt tokens a step as the time between tokens allows.

More sequences and more tokens a step serve more requests per second, as long as a step stays below the target. So the
sequence cap stays at the user's baseline, and the token budget is the largest one whose full step takes at most `ITL_SHARE`
of the target. When the queue of prompts grows (`pressure`, predicted wait over the TTFT target) the budget goes to its upper
bound until the queue is short again: a burst costs a few long gaps instead of late first tokens. That is a reserve for
seconds; no replica count rests on it.
"""

import math

from headway_planner.capacity import Mix, sustained
from headway_planner.model import BatchLimits
from headway_planner.steps import StepModel

ITL_SHARE, BURST_AT = 0.9, 0.3


def choose_limits(
    model: StepModel, mix: Mix, baseline: BatchLimits, itl_target_ms: float, tokens_max: int, pressure: float
) -> BatchLimits:
    """The limits for the next second."""
    if pressure >= BURST_AT:
        return BatchLimits(baseline.seqs, tokens_max)
    batch = round(sustained(model, mix, baseline, itl_target_ms).batch)
    free_ms = ITL_SHARE * itl_target_ms - model.decode_ms(batch, batch * (mix.inputs + mix.outputs / 2))
    tokens = batch + math.floor(max(0.0, free_ms) / (model.prefill_factor * model.b2_ms))
    return BatchLimits(baseline.seqs, min(max(tokens, baseline.tokens // 2, baseline.seqs), tokens_max))
