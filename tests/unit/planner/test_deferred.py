"""Work with deadlines: how many engines it needs beside the online demand, and that it orders nothing for a peak."""

from dataclasses import replace

import pytest

from headway_planner.coordinator import CoordinatorConfig, Intake, Memory, Totals, assess
from headway_planner.deferred import AIM_UP, MARKS, Backlog, Deferred, engines_for, noted
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits, Needs

DEADLINE_S = 1000.0
CONFIG = CoordinatorConfig(
    min_replicas=1,
    max_replicas=500,
    ttft_target_ms=1500,
    itl_target_ms=100,
    baseline=BatchLimits(32, 2048),
    hold_s=30.0,
    deadline_s=DEADLINE_S,
)
STEPS = LearntSteps(10.0, 0.5, 0.1, kv_tokens=100_000)


def here(waiting: float, came: float, finished: float = 0.0) -> Deferred:
    return Deferred(came, 100 * came, finished, 50 * finished, 0.0, waiting, 100 * waiting)


def test_nothing_with_a_deadline_needs_no_engine():
    assert engines_for(Backlog(), 0.0, [3.0] * 100, []) == 0.0
    assert engines_for(Backlog(here(0, 10, 10), ((0.0, 10.0),)), 0.0, [3.0] * 100, [500.0]) == 0.0


def test_work_is_spread_over_the_time_that_it_has_on_top_of_the_mean_demand():
    backlog = Backlog(here(100, 100), ((0.0, 100.0),))
    assert engines_for(backlog, 400.0, [2.0] * 1000, [200.0]) == pytest.approx(4.0)
    assert engines_for(backlog, 400.0, [2.0] * 1000, [400.0]) == pytest.approx(3.0)


def test_a_peak_of_online_demand_orders_nothing_for_work_that_can_wait():
    backlog = Backlog(here(100, 100), ((0.0, 100.0),))
    peak = [*[1.0] * 380, *[9.0] * 20]
    assert engines_for(backlog, 400.0, peak, [400.0]) == pytest.approx(1.0 + 1.4)


def test_what_came_first_is_due_first():
    # 90 of the 100 that are here came early: they decide, not the last ten.
    backlog = Backlog(here(100, 110, finished=10), ((0.0, 100.0), (500.0, 110.0)))
    assert engines_for(backlog, 100.0, (), [50.0, 550.0]) == pytest.approx(90 / 50)
    # What is finished is taken to be the first that came.
    backlog = Backlog(here(100, 210, finished=110), backlog.marks)
    assert engines_for(backlog, 100.0, (), [50.0, 550.0]) == pytest.approx(100 / 550)


def test_overdue_work_is_spread_over_half_a_minute():
    backlog = Backlog(here(10, 10), ((0.0, 10.0),))
    assert engines_for(backlog, 60.0, (), [-100.0]) == pytest.approx(2.0)


def test_marks_are_few_and_none_is_older_than_a_deadline():
    backlog = Backlog()
    for second in range(3000):
        backlog = noted(backlog, here(1, second), float(second), DEADLINE_S)
    times = [at_s for at_s, _ in backlog.marks]
    assert times[0] > 2999 - DEADLINE_S
    assert len(times) <= MARKS


def test_a_mean_answer_counts_half_of_what_runs():
    backlog = Backlog(Deferred(40, 4000, 10, 1000, running=20, waiting=10, queued_tokens=0))
    assert backlog.mix is not None
    assert (backlog.mix.inputs, backlog.mix.outputs) == (100, 50)
    assert Backlog(here(2, 2)).mix is None


def test_the_rate_is_that_since_the_oldest_mark():
    assert Backlog().rate(10.0) == 0.0
    assert Backlog(here(1, 130), ((0.0, 30.0), (50.0, 80.0))).rate(100.0) == pytest.approx(1.0)


def test_a_removal_leaves_room_for_work_that_keeps_coming():
    """Ten chats a second, and batch work that is served as soon as it comes: nothing of it is here."""

    def keep(batch_rate: float) -> int:
        memory, found = Memory(prior=STEPS), None
        for second in range(1, 121):
            totals = Totals(10.0 * second, 0.0, 1000.0 * second, 0.0, 10.0 * second, 500.0 * second)
            came = here(0.0, batch_rate * second, batch_rate * second)
            found, memory = assess(Intake(float(second), 2, 2, totals, starts=(10.0,), deferred=came), CONFIG, memory)
        assert found is not None
        return found.keep

    assert keep(100.0) > keep(0.0)


def needs(waiting: float) -> Needs:
    """After two minutes of ten requests a second, all served at once, beside so many that wait for a deadline."""
    memory, totals, found = Memory(prior=STEPS), Totals(), None
    for second in range(1, 121):
        totals = Totals(10.0 * second, 0.0, 1000.0 * second, 0.0, 10.0 * second, 500.0 * second)
        intake = Intake(float(second), 2, 2, totals, starts=(10.0,))
        if waiting:
            intake = replace(intake, deferred=here(waiting, waiting + 100, 100))
        found, memory = assess(intake, CONFIG, memory)
    assert found is not None
    return found


def test_replicas_are_ordered_only_as_far_as_deadlines_need_them():
    calm, few, many = needs(0), needs(10), needs(200_000)
    assert few.up == calm.up, "the reserve for bursts does it"
    assert many.up > calm.up
    assert many.keep >= many.up, "a removal looks at a shorter time"
    assert "s of work with deadlines" in many.reason
    work_s = float(many.reason.rsplit(" s of work", 1)[0].rsplit(" ", 1)[1])
    assert many.up * AIM_UP * DEADLINE_S > 0.8 * work_s
