"""A fit finds the coefficients that made its samples, and says what it cannot fit."""

import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_planner import non_negative
from headway_planner.calibration import Engine, StepSample, error, fit, held_out, step_ms
from headway_planner.steps import StepModel

ENGINE = Engine("made", 1, 100_000, ahead=False)


def model(values: tuple[float, ...], *, ahead: bool) -> StepModel:
    a1, b1, bend, slope, pf, dec0, seq, ctx, host = values
    # The lines cross at `bend` tokens.
    return StepModel(
        name="made",
        gpus=1,
        host_ms=host if ahead else 0.0,
        a1_ms=a1,
        b1_ms=b1,
        a2_ms=max(0.0, a1 - bend * slope),
        b2_ms=b1 + slope,
        att_pf_ms=pf,
        att_dec0_ms=dec0,
        att_dec_seq_ms=seq,
        att_dec_ctx_ms=ctx,
        kv_tokens=100_000,
        ahead=ahead,
    )


def grid(made: StepModel) -> list[StepSample]:
    """Decodes, prompts, and both, timed by the model itself."""
    shapes = [(batch, batch * context, 0, 0.0) for batch in (1, 2, 16, 64, 128) for context in (64, 512, 2048)]
    shapes += [
        (0, 0, chunk, float(chunk * (2 * before + chunk))) for chunk in (8, 64, 256, 1024) for before in (0, 512)
    ]
    shapes += [(batch, batch * 256, chunk, float(chunk**2)) for batch in (1, 16, 64) for chunk in (16, 256, 700)]
    found = []
    for number, (batch, context, tokens, squares) in enumerate(shapes):
        for apart in (False, True) if made.ahead and batch and tokens else (False,):
            sample = StepSample(str(number), batch, context, tokens, squares, apart, 1.0)
            found.append(replace(sample, ms=step_ms(made, sample)))
    return found


coefficients = st.tuples(
    st.floats(2, 20),  # a1
    st.floats(0.001, 0.05),  # b1
    st.floats(40, 300),  # tokens at which the lines cross
    st.floats(0.005, 0.05),  # how much steeper the second one is
    st.floats(1e-7, 1e-5),
    st.floats(0.1, 2),
    st.floats(0.001, 0.05),
    st.floats(1e-5, 1e-3),
    st.floats(0.1, 3),
)


@settings(max_examples=10)
@given(coefficients, st.booleans())
def test_a_fit_to_steps_of_a_model_gives_steps_of_that_model(values: tuple[float, ...], ahead: bool) -> None:
    made = model(values, ahead=ahead)
    samples = grid(made)
    found = fit(replace(ENGINE, ahead=ahead), samples)
    assert max(abs(error(found, one)) for one in samples) < 0.03
    assert found.att_dec_ctx_ms == pytest.approx(made.att_dec_ctx_ms, rel=0.1)
    assert found.att_dec_seq_ms == pytest.approx(made.att_dec_seq_ms, rel=0.2, abs=0.01)
    assert found.b2_ms == pytest.approx(made.b2_ms, rel=0.1)


def test_known_coefficients_come_back() -> None:
    made = model((6.0, 0.008, 300.0, 0.012, 4e-7, 0.3, 0.003, 4.5e-5, 0.5), ahead=True)
    found = fit(replace(ENGINE, ahead=True), grid(made))
    for name in ("host_ms", "a1_ms", "b1_ms", "a2_ms", "b2_ms", "att_pf_ms", "att_dec0_ms", "att_dec_ctx_ms"):
        assert getattr(found, name) == pytest.approx(getattr(made, name), rel=1e-3, abs=1e-6), name
    assert (found.name, found.gpus, found.kv_tokens, found.ahead) == ("made", 1, 100_000, True)


def test_what_the_end_of_a_prompt_costs_is_found_where_nothing_runs_ahead() -> None:
    made = replace(model((20.0, 0.2, 90.0, 0.1, 5e-4, 2.5, 0.5, 2e-3, 0.0), ahead=False), prompt_end_ms=3.0)
    ended = [replace(one, ended=int(bool(one.tokens))) for one in grid(made)]
    samples = [replace(one, ms=step_ms(made, one)) for one in (*grid(made), *ended)]
    found = fit(ENGINE, samples)
    assert found.prompt_end_ms == pytest.approx(3.0, rel=0.02)
    assert max(abs(error(found, one)) for one in samples) < 0.01
    assert fit(replace(ENGINE, ahead=True), samples).prompt_end_ms == 0
    assert fit(ENGINE, grid(made)).prompt_end_ms == 0  # kept before samples said it


def test_the_least_time_of_a_step_with_a_prompt_is_found() -> None:
    made = model((4.0, 0.005, 200.0, 0.017, 1e-6, 0.3, 0.003, 3e-5, 0.2), ahead=True)
    made = replace(made, prompt_step_ms=13.0, prompt_step_beside_ms=20.0)
    samples = grid(made)
    found = fit(replace(ENGINE, ahead=True), samples)
    assert (found.prompt_step_ms, found.prompt_step_beside_ms) == (13.0, 20.0)
    assert max(abs(error(found, one)) for one in samples) < 0.1  # what is near a floor is not fitted to


def test_a_size_that_is_dearer_than_a_larger_one_is_known_where_the_engine_runs_ahead() -> None:
    made = model((4.0, 0.005, 200.0, 0.017, 1e-6, 0.0, 0.0, 3e-5, 0.2), ahead=True)
    samples = grid(made)
    dearer = [replace(one, ms=1.3 * one.ms) if one.decodes == 16 and not one.tokens else one for one in samples]
    for ahead in (True, False):
        found = fit(replace(ENGINE, ahead=ahead), dearer)
        assert [size for size, _ in found.decode_sizes] == ([1, 2, 16, 64, 128] if ahead else [])
        assert (found.decode_ms(16, 16 * 512) > 1.1 * found.decode_ms(64, 16 * 512)) is ahead
    found = fit(replace(ENGINE, ahead=True), dearer)
    assert (
        found.decode_ms(9, 4608) == found.decode_ms(16, 4608) == pytest.approx(1.3 * made.decode_ms(16, 4608), rel=0.05)
    )


def test_a_cell_of_many_chunks_counts_as_much_as_one_of_one_step() -> None:
    made = model((20.0, 0.2, 90.0, 0.1, 5e-4, 2.5, 0.5, 2e-3, 0.0), ahead=False)
    samples = grid(made)
    # Sixty chunks of one prompt, each of which takes half as long again as the model can say.
    chunks = [StepSample("chunks", 8, 800.0, 64, 64.0 * (2 * 64 * n + 64), False, 1.0) for n in range(60)]
    slow = [replace(one, ms=1.5 * step_ms(made, one)) for one in chunks]
    found = fit(ENGINE, [*samples, *slow])
    assert statistics.mean(abs(error(found, one)) for one in samples) < 0.03


def test_no_coefficient_is_negative_whatever_was_measured() -> None:
    samples = [StepSample(f"{n}", n, 100 * n, 0, 0, False, 10 - n) for n in range(1, 9)]
    samples += [StepSample(f"p{n}", 0, 0, 16 * n, 256.0 * n * n, False, 20 - n) for n in range(1, 9)]
    found = fit(ENGINE, samples)
    assert min(found.a1_ms, found.b1_ms, found.b2_ms, found.att_dec_seq_ms, found.att_dec_ctx_ms, found.att_pf_ms) >= 0


def test_samples_that_cannot_be_fitted_are_named() -> None:
    decode, prompt = StepSample("decode", 1, 64, 0, 0, False, 5.0), StepSample("prompt", 0, 0, 64, 4096, False, 9.0)
    with pytest.raises(ValueError, match="prompt tokens are needed"):
        fit(ENGINE, [decode])
    with pytest.raises(ValueError, match="prompt: a step must take more than 0 ms"):
        fit(ENGINE, [decode, replace(prompt, ms=0.0)])


def test_whole_cells_are_held_out() -> None:
    samples = [StepSample(f"{cell}", 1, 1, 0, 0, False, 1.0) for cell in range(10) for _ in range(3)]
    kept, out = held_out(samples, 5)
    assert {one.cell for one in out} == {"2", "7"}
    assert (len(kept), len(out)) == (24, 6)
    assert held_out(samples, 0) == (samples, [])


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), min_size=6, max_size=12),
    st.lists(st.floats(-5, 5), min_size=12, max_size=12),
)
def test_non_negative_least_squares_cannot_be_bettered_by_moving_one_coefficient(
    rows: list[list[float]], values: list[float]
) -> None:
    values = values[: len(rows)]
    found = non_negative.solve(rows, values)

    def loss(x: list[float]) -> float:
        return sum(
            (sum(a * b for a, b in zip(row, x, strict=True)) - v) ** 2 for row, v in zip(rows, values, strict=True)
        )

    assert min(found) >= 0
    least = loss(found)
    for index in range(4):
        for step in (-0.01, 0.01):
            moved = [max(0.0, one + step) if i == index else one for i, one in enumerate(found)]
            assert loss(moved) >= least - 1e-6 * (1 + least)
