"""Replayed demand: each short cut gives what the plain rule gives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_planner.capacity import Capacity
from headway_planner.forecast import Ask, Past, forecast
from headway_planner.staffing import UTILIZATION, centred_mean, late_share, needed, rise, rolling_mean

MOST = 12
HELP = st.sampled_from([1.0, 5.0, 30.0, math.inf])
LATE = st.sampled_from([0.0, 0.002, 0.05, 0.5])
DEMAND = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 15.0)), max_size=80)


def plain_share(work: list[float], replicas: int, slack_s: float, help_s: float = math.inf) -> float:
    """Of what comes in a second the late have a quarter of the service, if they are so many; the others what is left."""
    serves = UTILIZATION * replicas
    timely = behind = late = stood_s = 0.0
    for arrived in work:
        stood_s = stood_s + 1 if timely or behind or arrived > serves else 0.0
        if stood_s > help_s:
            timely = behind = stood_s = 0.0
        turn = min(behind, serves / 4)
        left = timely + arrived - (serves - turn)
        timely, behind = max(0.0, left), max(0.0, behind - turn + min(0.0, left))
        more = max(0.0, timely - slack_s * serves)
        late += more
        behind += more
        timely = min(timely, slack_s * serves)
    return late / sum(work) if sum(work) > 0 else 0.0


@given(DEMAND, st.integers(1, MOST), st.floats(0.01, 5.0), LATE, HELP)
def test_late_work_is_counted_until_it_is_enough(
    work: list[float], count: int, slack_s: float, enough: float, help_s: float
):
    share = plain_share(work, count, slack_s, help_s)
    assert late_share(work, count, slack_s, help_s=help_s) == share
    found = late_share(work, count, slack_s, enough, help_s)
    assert found == share if share <= enough else enough < found <= share


def test_what_is_too_much_is_late_and_the_rest_is_not():
    """Ten seconds of twice what is served, slack of one: a second's worth waits in time, of nine a quarter more is late."""
    served = UTILIZATION
    work = [*[2 * served] * 10, *[0.0] * 20]
    # Nine seconds are too much by one each; in eight of them a quarter of the service goes to the late.
    assert late_share(work, 1, 1.0) == pytest.approx((9 + 8 / 4) / 20)


def test_a_queue_is_helped_when_it_has_stood_for_as_long_as_a_start_takes():
    # 0.1 too much each second: after 60 s what comes waits 6 s, and nothing does that is helped after 50.
    work = [UTILIZATION + 0.1] * 60
    assert late_share(work, 1, 5.0) > 0
    assert late_share(work, 1, 5.0, help_s=50) > 0
    assert late_share(work, 1, 5.0, help_s=40) == 0


@given(DEMAND, st.floats(0.01, 5.0), st.floats(0.0, 3.0), LATE, st.integers(1, MOST))
def test_the_count_is_the_first_that_suffices(
    work: list[float], slack_s: float, slots_s: float, allowed: float, least: int
):
    def wait_s(count: int) -> float:
        return slack_s + slots_s * (1 - 1 / count)

    sufficing = (count for count in range(least, MOST) if plain_share(work, count, wait_s(count)) <= allowed)
    assert needed(work, wait_s, allowed, (least, MOST)) == next(sufficing, MOST)


@given(st.lists(st.floats(0.0, 20.0), max_size=700), st.integers(1, 60), st.sampled_from([0.0, 0.5, 0.8, 0.98]))
def test_a_rise_is_to_the_highest_level_of_the_horizon(levels: list[float], horizon: int, share: float):
    step = max(1, len(levels) // 200)
    moments = range(0, len(levels) - horizon, step)
    rises = sorted((max(levels[at : at + horizon + 1]) - levels[at], at) for at in moments)
    wanted = 0.0
    if rises:
        place = min(len(rises) - 1, int(share * len(rises)))
        while place > 0 and max(at for _, at in rises[place:]) - min(at for _, at in rises[place:]) <= horizon + 5:
            place -= 1
        wanted = rises[place][0]
    assert rise(levels, (horizon, 5), share) == wanted


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 40))
def test_a_local_mean_is_of_the_values_around(values: list[int], span: int):
    half = span // 2
    parts = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    assert centred_mean(values, span) == [sum(part) / len(part) for part in parts]


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 40))
def test_a_level_is_the_mean_of_the_last_values(values: list[int], span: int):
    parts = [values[max(0, at + 1 - span) : at + 1] for at in range(len(values))]
    assert rolling_mean(values, span) == [sum(part) / len(part) for part in parts]


@pytest.mark.parametrize("least", [1, 4, 9, 30])
def test_fewer_than_the_least_are_not_looked_for(least: int):
    work = [3.0 + 2.0 * math.sin(second / 7) + 4.0 * (second % 90 < 8) for second in range(1500)]
    past = Past.of(work, [0.4 * one for one in work])
    engine, ask = Capacity(4.0, 40.0, 30.0, 2.0, 0.2), Ask(1500.0, 0.002, 50)
    count, level = forecast(past, engine, ask, 120.0, 0.9)
    assert 4 < count < 30
    assert forecast(past, engine, ask, 120.0, 0.9, least=least) == (max(count, least), level)
