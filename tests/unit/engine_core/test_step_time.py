"""The estimate bounds what it has seen, and follows what changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.core.step_time import FIRST_CHUNK, SMALLEST_CHUNK, StepTime


def learned(decode_ms: float, token_ms: float) -> StepTime:
    estimate = StepTime()
    estimate.observe(0, decode_ms)
    estimate.observe(100, decode_ms + 100 * token_ms)
    return estimate


def test_a_step_of_decodes_alone_comes_first_then_a_small_chunk() -> None:
    estimate = StepTime()
    estimate.observe(500, 80.0)
    assert estimate.prompt_tokens_within(1000) == 0
    estimate.observe(0, 5.0)
    assert estimate.prompt_tokens_within(1000) == FIRST_CHUNK


def test_the_chunk_is_what_the_bound_leaves_after_the_decodes() -> None:
    assert learned(5.0, 0.1).prompt_tokens_within(25.05) == 200


def test_a_prompt_makes_progress_when_decodes_alone_pass_the_bound() -> None:
    assert learned(50.0, 0.1).prompt_tokens_within(25) == SMALLEST_CHUNK


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0.1, 100)), min_size=1))
def test_no_step_took_longer_than_the_estimate_made_right_after_it(steps: list[tuple[int, float]]) -> None:
    estimate = learned(1.0, 0.01)
    for tokens, duration_ms in steps:
        estimate.observe(tokens, duration_ms)
        assert estimate.decode_ms is not None
        assert duration_ms <= estimate.decode_ms + estimate.prefill_ms(tokens) + 1e-6


@pytest.mark.parametrize("token_ms", [0.0, 5e-324, 1e-12])
def test_prompt_tokens_that_seem_to_cost_nothing_fill_the_step(token_ms: float) -> None:
    assert StepTime(5.0, token_ms).prompt_tokens_within(20) >= 1 << 18
    assert StepTime(50.0, token_ms).prompt_tokens_within(20) == SMALLEST_CHUNK


def test_an_outlier_is_forgotten() -> None:
    estimate = learned(5.0, 0.1)
    estimate.observe(0, 500.0)
    for _ in range(200):
        estimate.observe(0, 5.0)
    assert estimate.decode_ms == pytest.approx(5.0, rel=0.01)
