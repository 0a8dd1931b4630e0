"""The estimate bounds what it has seen, and follows what changes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.core.step_time import FIRST_CHUNK, LARGEST_CHUNK, MOST_REACH, SMALLEST_CHUNK, StepTime


def squares(tokens: int, start: int = 0) -> int:
    return tokens * (2 * start + tokens)


def learned(decode_ms: float, token_ms: float) -> StepTime:
    estimate = StepTime(reach=0.0)
    estimate.observe(0, 0, decode_ms)
    estimate.observe(100, squares(100), decode_ms + 100 * token_ms)
    return estimate


def test_a_step_of_decodes_alone_comes_first_then_a_small_chunk() -> None:
    estimate = StepTime()
    estimate.observe(500, squares(500), 80.0)
    assert estimate.work_within(1000) == 0
    estimate.observe(0, 0, 5.0)
    assert estimate.work_within(1000) == FIRST_CHUNK


def test_the_chunk_is_what_the_bound_leaves_after_the_decodes() -> None:
    estimate = learned(5.0, 0.1)
    assert estimate.tokens(estimate.work_within(25.05), 0) == 200


def test_a_prompt_makes_progress_when_decodes_alone_pass_the_bound() -> None:
    assert learned(50.0, 0.1).work_within(25) == SMALLEST_CHUNK


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 4000), st.floats(0.1, 100)), min_size=1))
def test_no_step_took_longer_than_the_estimate_made_right_after_it(steps: list[tuple[int, int, float]]) -> None:
    estimate = learned(1.0, 0.01)
    for tokens, start, duration_ms in steps:
        estimate.observe(tokens, squares(tokens, start), duration_ms)
        assert estimate.decode_ms is not None
        assert duration_ms <= estimate.decode_ms + estimate.prefill_ms(tokens, start) * (1 + 1e-9) + 1e-6


@given(st.floats(1, 1e5), st.integers(0, 10_000), st.floats(0, MOST_REACH))
def test_as_many_tokens_are_taken_as_their_work_allows(work: float, start: int, reach: float) -> None:
    estimate = StepTime(5.0, 0.1, reach)
    tokens = estimate.tokens(work, start)
    assert estimate.work(tokens, start) <= work * (1 + 1e-9) < estimate.work(tokens + 1, start) * (1 + 2e-9)


def test_what_a_token_costs_far_back_in_a_prompt_is_learned_from_prompts_of_all_lengths() -> None:
    estimate, chance = learned(5.0, 0.1), random.Random(4)
    for _ in range(100):
        tokens, start = chance.randint(50, 300), chance.randint(0, 3000)
        added_ms = 0.1 * (tokens + 0.0005 * squares(tokens, start)) * chance.uniform(0.95, 1.05)
        estimate.observe(tokens, squares(tokens, start), 5.0 + added_ms)
    assert estimate.reach == pytest.approx(0.0005, rel=0.15)
    for tokens, start in ((200, 0), (200, 1500), (200, 4000)):
        assert estimate.prefill_ms(tokens, start) == pytest.approx(
            0.1 * (tokens + 0.0005 * squares(tokens, start)), rel=0.15
        )
    known = estimate.reach
    for _ in range(500):  # short prompts say nothing of it, and what they take is noise
        tokens = chance.randint(40, 80)
        estimate.observe(tokens, squares(tokens), 5.0 + 0.1 * tokens * chance.uniform(0.8, 1.2))
    assert estimate.reach == pytest.approx(known, rel=0.5)


def test_prompts_whose_later_tokens_are_not_dearer_have_no_reach() -> None:
    estimate = learned(5.0, 0.1)
    for start in range(0, 4000, 200):
        estimate.observe(200, squares(200, start), 25.0 - start / 1000)
    assert estimate.reach == 0.0


@pytest.mark.parametrize("token_ms", [0.0, 5e-324, 1e-12])
def test_prompt_tokens_that_seem_to_cost_nothing_fill_the_step(token_ms: float) -> None:
    free = StepTime(5.0, token_ms, MOST_REACH)
    assert free.tokens(free.work_within(20), 3000) == LARGEST_CHUNK
    assert StepTime(50.0, token_ms).work_within(20) == SMALLEST_CHUNK


def test_an_outlier_is_forgotten() -> None:
    estimate = learned(5.0, 0.1)
    estimate.observe(0, 0, 500.0)
    for _ in range(200):
        estimate.observe(0, 0, 5.0)
    assert estimate.decode_ms == pytest.approx(5.0, rel=0.01)
