"""Batch limits from the step model: as many prompt tokens a step as the time between tokens allows.

More sequences and more tokens a step serve more requests per second, as long as a step stays below the target. So the
token budget is the largest one whose full step takes at most `ITL_SHARE` of the target, and the sequence cap may rise to the
largest batch that the target allows. When the queue of prompts grows (`pressure`, predicted wait over the TTFT target) the
budget goes up until the queue is short again: a burst costs a few long gaps instead of late first tokens. How far: a step of
C prompt tokens spends d / (d + t C) of its time on decodes, which is all that a larger budget can win. So to
C = d / t * (1 / BURST_DECODES - 1), or to the budget above where that is larger.
That is a reserve for seconds; no replica count rests on it.

A measured breach that the model does not predict lowers `trim`, the share of the target that is worked with.
"""

import math

from headway_planner.capacity import Mix, sustained
from headway_planner.model import BatchLimits, Guide, TuneConfig
from headway_planner.steps import StepCost

ITL_SHARE, BURST_AT = 0.9, 0.3
BURST_DECODES = 0.1  # share of a step's time
GRAIN = 16  # tokens; budgets between its multiples differ by nothing that can be measured


def guide(model: StepCost, mix: Mix, baseline: BatchLimits, config: TuneConfig, pressure: float, trim: float) -> Guide:
    """Where the limits should be for this mix of requests; `trim` 0..1."""
    target_ms = trim * config.itl_target_ms
    batch = round(sustained(model, mix, baseline, target_ms).batch)
    decodes_ms = model.decode_ms(batch, batch * mix.context)
    free_ms = ITL_SHARE * target_ms - decodes_ms
    tokens = batch + math.floor(max(0.0, free_ms) / max(1e-6, model.prefill_token_ms))
    tokens = GRAIN * (tokens // GRAIN)
    lowest = max(baseline.tokens // 2, baseline.seqs, config.tokens_min)
    most = sustained(model, mix, BatchLimits(config.seqs_max, baseline.tokens), target_ms)
    tokens = min(max(tokens, lowest), config.tokens_max)
    burst = math.ceil(decodes_ms / max(1e-6, model.prefill_token_ms) * (1 / BURST_DECODES - 1))
    return Guide(
        seqs=min(max(round(most.batch), config.seqs_min), config.seqs_max),
        tokens=tokens,
        seqs_itl_ms=most.itl_ms,
        pressure=pressure,
        burst=min(max(tokens, burst), config.tokens_max),
    )
