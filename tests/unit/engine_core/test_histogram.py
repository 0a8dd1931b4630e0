import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_engine.core.histogram import NUM_BUCKETS, Histogram, HistogramRecorder, total


def recorded(*values: float) -> Histogram:
    recorder = HistogramRecorder()
    for value in values:
        recorder.record(value)
    return recorder.snapshot()


@given(st.lists(st.lists(st.floats(0, 1e6), max_size=5), max_size=4))
def test_a_total_is_what_one_recorder_would_have_counted(parts: list[list[float]]) -> None:
    found, alone = total(recorded(*part) for part in parts), recorded(*(value for part in parts for value in part))
    assert (found.buckets, found.count) == (alone.buckets, alone.count)
    assert found.sum_ms == pytest.approx(alone.sum_ms)


@given(st.floats(0.1, 1e6))
def test_a_value_lies_in_its_bucket(value: float) -> None:
    index = len(recorded(value).buckets) - 1
    assert 0.1 * 1.1**index <= value * (1 + 1e-12)
    assert value < 0.1 * 1.1 ** (index + 1) * (1 + 1e-12)


@pytest.mark.parametrize("value", [-5.0, 0.0, 0.0999])
def test_values_below_the_smallest_go_to_the_first_bucket(value: float) -> None:
    assert recorded(value).buckets == (1,)
    assert recorded(value).sum_ms == max(value, 0.0)


def test_values_above_the_largest_go_to_the_last_bucket() -> None:
    assert len(recorded(1e12).buckets) == NUM_BUCKETS


@given(st.lists(st.floats(0.11, 1e5), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_within_five_percent(values: list[float], share: float) -> None:
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    quantile = recorded(*values).quantile(share)
    assert quantile == pytest.approx(exact, rel=0.05)


def test_nothing_recorded_has_no_quantile() -> None:
    assert recorded() == Histogram()
    assert recorded().quantile(0.95) is None
