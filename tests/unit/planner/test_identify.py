"""The step model that is learnt: what it finds, when it says nothing, and on which side it errs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_planner.identify import Fit, LearntSteps, StepsDone, learn, learnt

STEP, SEQUENCE, TOKEN = 7.0, 0.04, 0.025


def done(steps: int, batch: float, prompt: int, noise: float = 0.0) -> StepsDone:
    output = round(steps * batch)
    return StepsDone(steps, output, prompt, (STEP * steps + SEQUENCE * output + TOKEN * prompt) * (1 + noise))


def taught(rows: list[StepsDone]) -> Fit:
    fit = Fit()
    for row in rows:
        fit = learn(fit, [row])
    return fit


def found(rows: list[StepsDone]) -> LearntSteps:
    model = learnt(taught(rows), 1000)
    assert model is not None
    return model


def test_coefficients_are_found_when_the_load_varies() -> None:
    model = found([done(100, 2 + index % 20, 300 * (index % 7)) for index in range(60)])
    # The ridge on the constant costs a hundredth at the most.
    assert model.step_ms == pytest.approx(STEP, rel=0.02)
    assert model.sequence_ms == pytest.approx(SEQUENCE, rel=0.2)
    assert model.token_ms == pytest.approx(TOKEN, rel=0.05)


def test_nothing_is_known_from_a_glance() -> None:
    assert learnt(taught([done(100, 4, 100)] * 9), 1000) is None
    assert learnt(taught([done(1, 1, 0)] * 50), 1000) is None, "50 tokens"
    assert learnt(Fit(), 1000) is None


def test_batch_that_never_varied_is_taken_to_cost_in_proportion() -> None:
    model = found([done(100, 4, 0)] * 30)
    seen = STEP + 4 * SEQUENCE
    assert model.decode_ms(4, 0) == pytest.approx(seen, rel=0.01)
    assert model.decode_ms(64, 0) == pytest.approx(16 * seen, rel=0.01)


def test_what_is_not_explained_is_added() -> None:
    rows = [done(100, 2 + index % 20, 300 * (index % 7), 0.3 * (-1) ** index) for index in range(60)]
    noisy = found(rows)
    assert noisy.residual > 0.1
    assert noisy.decode_ms(10, 0) > 1.1 * (STEP + 10 * SEQUENCE) * 0.95


@pytest.mark.parametrize("busy_ms", [math.nan, math.inf, -5.0, 0.0])
def test_nonsense_teaches_nothing(busy_ms: float) -> None:
    assert learn(Fit(), [StepsDone(10, 10, 0, busy_ms), StepsDone(0, 0, 0, 5.0)]) == Fit()


def test_large_fleet_does_not_forget_faster() -> None:
    alone = learn(Fit(), [done(100, 4, 50)])
    many = learn(Fit(), [done(100, 4, 50)] * 1000)
    assert many.observations == alone.observations
    assert many.squares == pytest.approx(alone.squares)


COUNTS = st.tuples(st.integers(1, 500), st.floats(0, 64), st.integers(0, 5000), st.floats(-0.5, 0.5))


@given(st.lists(COUNTS, min_size=12, max_size=40))
def test_no_coefficient_is_ever_negative_or_endless(rows: list[tuple[int, float, int, float]]) -> None:
    model = learnt(taught([done(*row) for row in rows]), 0)
    if model is not None:
        values = (model.step_ms, model.sequence_ms, model.token_ms, model.residual)
        assert all(0 <= one < math.inf for one in values)
        assert model.decode_ms(1, 0) > 0


def test_a_minute_on_a_starved_machine_makes_steps_dearer_by_less_than_it_was_slower_and_fades() -> None:
    def rows(passes: int, slower: float) -> list[StepsDone]:
        return [done(100, 2 + index % 20, 300 * (index % 7), slower - 1) for index in range(passes)]

    def dearer(seen: list[StepsDone]) -> float:
        return found(seen).decode_ms(10, 0) / (STEP + 10 * SEQUENCE) - 1

    # Passes of 2 s: ten minutes of load, a minute at half the speed, and what came after it.
    minute = rows(300, 1.0) + rows(30, 2.0)
    assert dearer(minute) == pytest.approx(0.31, abs=0.01)
    assert dearer(minute + rows(150, 1.0)) == pytest.approx(0.24, abs=0.01)
    assert dearer(minute + rows(900, 1.0)) == pytest.approx(0.10, abs=0.01)
    assert dearer(rows(30, 1.0) + rows(30, 2.0)) == pytest.approx(0.74, abs=0.01), "one minute old"
