"""The forecast: what free slots, bursts, growth and long answers do to the number of replicas."""

import pytest

from headway_cli.simulate import engines
from headway_planner.capacity import Mix, sustained
from headway_planner.forecast import Ask, Past, forecast, queue_slack_s
from headway_planner.model import BatchLimits

MODEL = engines.load(engines.BUILT_IN)
CHAT = sustained(MODEL, Mix(1155, 211), BatchLimits(256, 2048), 100.0)
INTERACTIVE = Ask(1500.0, 0.002, 50)


def count(work: list[float], prompt_share: float = 0.5, ask: Ask = INTERACTIVE, share: float = 0.98) -> int:
    past = Past.of(work, [prompt_share * one for one in work])
    return forecast(past, CHAT, ask, 120.0, share)[0]


def test_steady_demand_needs_little_more_than_itself():
    assert count([4.0] * 1200) == 5


def test_a_burst_that_fits_into_free_slots_needs_no_replica_and_one_of_prompts_does():
    burst = [*[4.0] * 900, *[7.0] * 5, *[4.0] * 200]
    assert count(burst, prompt_share=0.1) == 5
    assert count(burst, prompt_share=1.0) > 5


def test_a_stricter_target_needs_more():
    uneven = [4.0 + 3.0 * (second % 10 == 0) for second in range(1200)]
    assert count(uneven, 0.9, Ask(100.0, 0.002, 50)) > count(uneven, 0.9)


def test_of_a_long_target_all_but_two_seconds_may_pass_in_the_queue():
    assert [queue_slack_s(target_ms) for target_ms in (400.0, 1500.0, 10_000.0)] == pytest.approx([0.3, 1.125, 8.0])


@pytest.mark.parametrize("prompt_share", [0.5, 1.0])
def test_a_little_too_much_for_as_long_as_a_start_takes_is_worth_a_replica_only_if_nobody_may_wait(prompt_share: float):
    # Five engines are planned with at 4.75: after 120 s what comes waits 6.3 s, and a sixth serves if it was ordered then.
    assert count([5.0] * 1200, prompt_share) == 6
    assert count([5.0] * 1200, prompt_share, Ask(10_000.0, 0.002, 50)) == 5


def test_bursts_that_return_are_prepared_for_while_it_is_quiet():
    returning = [12.0 if second % 300 < 90 else 0.1 for second in range(1150)]
    assert returning[-1] == 0.1
    assert count(returning) > 10
    assert count(returning, share=0.1) < 10


def test_nothing_known_asks_for_one():
    assert forecast(Past.of((), ()), CHAT, INTERACTIVE, 120.0, 0.9) == (1, 0.0)


def test_free_slots_are_worth_less_the_busier_an_engine_is():
    slack = [CHAT.slack_s(load) for load in (0.0, 0.5, 0.9, 1.0, 3.0)]
    assert slack == sorted(slack, reverse=True)
    assert slack[0] == pytest.approx(CHAT.batch / CHAT.rate)
    assert slack[-1] == pytest.approx(0.0, abs=1e-6)


def test_long_answers_that_stay_make_an_engine_smaller_than_mean_lengths_say():
    by_lengths = sustained(MODEL, Mix(1000, 800), BatchLimits(256, 2048), 500.0)
    measured = sustained(MODEL, Mix(1000, 800, held=4000.0), BatchLimits(256, 2048), 500.0)
    assert measured.batch <= 0.9 * MODEL.kv_tokens / 4000
    assert measured.rate < 0.7 * by_lengths.rate
