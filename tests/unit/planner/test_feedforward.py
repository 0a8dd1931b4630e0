"""Limits from the step model: how large a step may be, and how far a burst raises it."""

from dataclasses import replace

import pytest

from headway_planner.capacity import Mix
from headway_planner.feedforward import BURST_DECODES, guide
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits, TuneConfig

# 8 ms of decodes in a small batch, 0.02 ms a prompt token.
STEPS = LearntSteps(7.0, 0.02, 0.02, kv_tokens=400_000)
CONFIG = TuneConfig(1, 256, 1, 8192, ttft_target_ms=1500, itl_target_ms=100, cooldown_s=30)
CODE, BASELINE = Mix(2048, 28), BatchLimits(64, 1024)


def test_burst_goes_no_further_than_a_tenth_of_a_step_is_left_to_win() -> None:
    found = guide(STEPS, CODE, BASELINE, CONFIG, pressure=0.5, trim=1.0)
    decodes_ms = STEPS.decode_ms(64, 0)
    assert decodes_ms / (decodes_ms + STEPS.token_ms * found.burst) == pytest.approx(BURST_DECODES, abs=0.01)
    assert found.tokens <= found.burst < CONFIG.tokens_max


def test_burst_is_never_below_the_budget_of_calm_times_nor_over_the_bound() -> None:
    dear = replace(STEPS, step_ms=60.0)
    assert guide(dear, CODE, BASELINE, CONFIG, 0.5, 1.0).burst == CONFIG.tokens_max
    cheap = replace(STEPS, step_ms=0.1, sequence_ms=0.01)
    found = guide(cheap, CODE, BASELINE, CONFIG, 0.5, 1.0)
    assert found.burst == found.tokens > 0
