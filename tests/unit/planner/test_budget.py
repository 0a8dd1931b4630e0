"""What late first tokens make of the loop: how careful it is, for what, and for how long."""

from dataclasses import replace
from itertools import pairwise

import pytest

from headway_planner.budget import HALF_LIFE_S, FirstTokens, caution, spent, told
from headway_planner.capacity import Capacity
from headway_planner.coordinator import CoordinatorConfig, Intake, Memory, Totals, assess
from headway_planner.forecast import Ask, Past, forecast
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits, Needs

ALLOWED = 0.002


@pytest.mark.parametrize(
    ("seen", "care"),
    [
        (FirstTokens(), 0.0),
        (FirstTokens(100_000, 200, 200), 0.0),  # as many as may be late
        (FirstTokens(100_000, 6000, 6000), 1.0),
        (FirstTokens(100_000, 50_000, 50_000), 1.0),
        (FirstTokens(100_000, 5000, 0), 0.0),  # prompts too long for the target
        (FirstTokens(150, 150, 150), 0.0),  # one moment of a small fleet
    ],
)
def test_caution_comes_from_first_tokens_that_a_queue_made_late(seen: FirstTokens, care: float) -> None:
    assert caution(seen, ALLOWED) == pytest.approx(care)


def test_caution_grows_with_the_burn_and_has_no_step() -> None:
    found = [caution(FirstTokens(10_000, late, late), ALLOWED) for late in range(0, 1000, 10)]
    assert found == sorted(found)
    assert max(after - before for before, after in pairwise(found)) < 0.1


def test_late_first_tokens_are_forgotten_by_half() -> None:
    late = FirstTokens(1000, 1000, 1000)
    assert spent(late, FirstTokens(), FirstTokens(), HALF_LIFE_S) == FirstTokens(500, 500, 500)


def test_a_target_that_is_lowered_makes_no_more_first_tokens_late_than_came() -> None:
    found = spent(FirstTokens(), FirstTokens(5000, 0, 0), FirstTokens(5010, 3000, 3000), 2.0)
    assert found == FirstTokens(10, 10, 10)


def test_a_fleet_that_was_late_is_sized_by_bursts_of_long_ago() -> None:
    burst = [8.0] * 40
    past = [1.0] * 300 + burst + [1.0] * 300 + burst + [1.0] * 1500
    ask = Ask(400.0, ALLOWED, 30)
    engine = Capacity(rate=10.0, batch=32.0, itl_ms=20.0)
    calm, careful = (
        forecast(Past.of(past, past), engine, replace(ask, caution=one), 60, 0.98)[0] for one in (0.0, 1.0)
    )
    assert calm < careful


def test_a_removal_waits_longer_where_first_tokens_were_late() -> None:
    assert _after_a_peak(late=0).keep_long == 1
    needs = _after_a_peak(late=3000)
    assert needs.keep_long is not None
    assert needs.keep_long > needs.keep
    assert "caution 100% after late first tokens" in needs.reason


def test_a_trace_of_caution_is_not_worth_a_word() -> None:
    assert told(0.003) == ""
    assert told(0.006) == ", caution 1% after late first tokens"


def test_a_backlog_that_was_worked_off_is_held_for_no_longer_by_late_first_tokens() -> None:
    needs = _after_a_peak(late=3000, waiting=5000)
    assert needs.keep_long == _after_a_peak(late=3000).keep_long


def test_a_careful_fleet_removes_what_it_never_needed_before_it_has_lived_for_the_longer_window() -> None:
    needs = _after_a_peak(late=3000, until_s=400, hold_s=100)
    assert needs.keep_long is not None, "280 s make the past believed, and the longer window is eight times 100 s"
    assert needs.keep_long > needs.keep
    assert _after_a_peak(late=3000, until_s=260, hold_s=100).keep_long is None, "the past is not believed yet"


def _after_a_peak(late: float, waiting: float = 0.0, until_s: int = 320, hold_s: float = 30) -> Needs:
    """What is needed some time after two minutes of load, in whose first second so many first tokens were late.

    `waiting`: requests in the queues of the engines in these minutes.
    """
    config = CoordinatorConfig(
        1, 20, ttft_target_ms=1500, itl_target_ms=100, baseline=BatchLimits(32, 2048), hold_s=hold_s
    )
    memory, totals, needs = Memory(prior=LearntSteps(10.0, 0.5, 0.1, kv_tokens=100_000)), Totals(), None
    for second in range(until_s):
        rate = 60.0 if second < 120 else 0.0
        totals = Totals(
            arrivals=totals.arrivals + rate,
            input_tokens=totals.input_tokens + 100 * rate,
            finished=totals.finished + rate,
            output_tokens=totals.output_tokens + 50 * rate,
            first=FirstTokens(10_000.0, late, late) if second else FirstTokens(),
        )
        queue = waiting if second < 120 else 0.0
        intake = Intake(second, 6, 6, totals, waiting=queue, queued_tokens=100 * queue, starts=(10.0,))
        needs, memory = assess(intake, config, memory)
    assert needs is not None
    return needs
