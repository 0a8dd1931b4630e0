"""What the demand asks for: when it is known, how it is counted, and what a removal waits for."""

from dataclasses import replace
from typing import Any

import pytest

from headway_planner.coordinator import CoordinatorConfig, Intake, Memory, Totals, assess, start_s
from headway_planner.identify import LearntSteps, StepsDone
from headway_planner.model import BatchLimits, Needs

CONFIG = CoordinatorConfig(
    min_replicas=1, max_replicas=20, ttft_target_ms=1500, itl_target_ms=100, baseline=BatchLimits(32, 2048), hold_s=30.0
)
# 10 ms + 0.5 ms a sequence: 32 sequences take 26 ms; a request of 100 + 50 tokens keeps an engine busy for some 50 ms.
STEPS = LearntSteps(10.0, 0.5, 0.1, kv_tokens=100_000)


def play(
    config: CoordinatorConfig, memory: Memory, rates: list[float], *, prompt: int = 100, output: int = 50, **more: Any
) -> tuple[Needs | None, Memory]:
    """A second per rate of requests of so many prompt and output tokens, all served at once."""
    at_s, totals = (memory.last.at_s, memory.last.totals) if memory.last else (0.0, Totals())
    needs = None
    for rate in rates:
        at_s += 1
        totals = replace(
            totals,
            arrivals=totals.arrivals + rate,
            input_tokens=totals.input_tokens + prompt * rate,
            finished=totals.finished + rate,
            output_tokens=totals.output_tokens + output * rate,
        )
        needs, memory = assess(Intake(at_s, 2, 2, totals, starts=(10.0,), **more), config, memory)
    return needs, memory


def known(config: CoordinatorConfig, rates: list[float], **more: Any) -> Needs:
    needs, _ = play(config, Memory(prior=STEPS), rates, **more)
    assert needs is not None
    return needs


def test_nothing_is_said_while_an_engine_is_not_known() -> None:
    assert play(CONFIG, Memory(), [10.0] * 60)[0] is None


def test_no_traffic_needs_no_knowledge() -> None:
    needs, _ = play(CONFIG, Memory(), [0.0] * 60)
    assert needs is not None
    assert needs.keep == 1


def test_step_model_is_learnt_on_the_way() -> None:
    memory = Memory()
    at_s, totals = 0.0, Totals()
    needs = None
    for second in range(60):
        at_s += 1
        batch = 5 + second % 9
        totals = replace(
            totals,
            arrivals=totals.arrivals + 10,
            input_tokens=totals.input_tokens + 1000,
            finished=totals.finished + 10,
            output_tokens=totals.output_tokens + 500,
        )
        prompt = 500 * (second % 5)
        steps = StepsDone(40, 40 * batch, prompt, 40 * (10 + 0.5 * batch) + 0.1 * prompt)
        needs, memory = assess(Intake(at_s, 1, 1, totals, done=(steps,), starts=(10.0,)), CONFIG, memory)
    assert needs is not None
    assert memory.work[-1] == pytest.approx(known_work(), rel=0.1)


def known_work() -> float:
    _, memory = play(CONFIG, Memory(prior=STEPS), [10.0] * 20)
    return memory.work[-1]


def test_demand_is_counted_in_engines_and_grows_with_the_requests() -> None:
    slow, fast = known(CONFIG, [20.0] * 120), known(CONFIG, [80.0] * 120)
    assert slow.up < fast.up
    assert "demand" in slow.reason


def test_backlog_asks_for_more_than_the_arrivals_do() -> None:
    calm = known(CONFIG, [20.0] * 120)
    behind = known(CONFIG, [20.0] * 120, waiting=2000.0, queued_tokens=200_000.0)
    assert behind.up > calm.up


def test_what_may_wait_needs_no_replica_and_what_lasts_does() -> None:
    """Ten seconds of a fifth more than two engines serve: replicas come later, and nothing waits for as long as it may."""
    patient = replace(CONFIG, ttft_target_ms=10_000)
    calm, surge, leap = [34.0] * 300, [46.0] * 10, [120.0] * 10
    assert known(CONFIG, calm + surge).up == 3
    assert known(patient, calm + surge).up == 2
    assert known(patient, calm + leap).up > 3, "that much would wait longer before anybody helps"
    lasting = [known(config, calm + surge * 6).reason.partition(",")[0] for config in (CONFIG, patient)]
    assert lasting[0] == lasting[1], "the same demand"


def test_requests_that_a_full_queue_refused_are_demand() -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [10.0] * 30)
    last = memory.last
    assert last is not None
    refused = replace(last.totals, arrivals=last.totals.arrivals + 20, refused=last.totals.refused + 20)
    _, after = assess(replace(last, at_s=last.at_s + 1, totals=refused), CONFIG, memory)
    assert after.work[-1] > memory.work[-1]
    assert after.mix is not None
    assert after.mix.inputs == pytest.approx(100.0)


def test_thrice_as_many_requests_a_third_as_long_are_no_burst() -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [150.0] * 300, prompt=90, output=48)
    _, memory = play(CONFIG, memory, [450.0] * 60, prompt=30, output=16)
    assert max(memory.work[-45:]) <= 1.2 * memory.work[-61]


def test_nothing_is_ordered_for_a_rise_from_a_load_that_has_just_ended() -> None:
    load = [0.0] * 100 + [58.0] * 200
    assert known(CONFIG, load).up > 2, "more than the two that serve"
    needs = known(CONFIG, load + [0.0] * 12)
    assert needs.up == 2
    assert "it falls: no order" in needs.reason
    assert needs.keep > 2, "and nothing is removed for it"
    assert known(CONFIG, load + [0.0] * 12 + [58.0] * 13).up > 2


def test_a_removal_leaves_room_for_more_than_what_comes() -> None:
    # 1.8 engines: two serve them, and a third is kept, since a twentieth more would order it again.
    needs = known(CONFIG, [36.0] * 620)
    assert (needs.up, needs.keep) == (2, 3)
    assert known(CONFIG, [30.0] * 620).keep == 2


def test_removal_waits_for_its_window_and_two_horizons() -> None:
    assert known(CONFIG, [20.0] * 40).keep_long is None, "two horizons of 28 s have not been seen"
    assert known(CONFIG, [20.0] * 90).keep_long is not None


def test_removal_keeps_what_was_needed_inside_of_the_window() -> None:
    # One a window ago, more for a moment since.
    needs = known(CONFIG, [2.0] * 120 + [120.0] * 8 + [2.0] * 14)
    assert needs.keep_long is not None
    assert needs.keep_long > 1


def test_what_a_predecessor_wrote_down_orders_replicas_but_removes_none() -> None:
    told = Memory(prior=STEPS, work=(0.3,) * 3600)
    needs, _ = play(CONFIG, told, [5.0] * 40)
    assert needs is not None
    assert needs.keep_long is None


def test_stale_counters_say_nothing_and_change_nothing() -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [10.0] * 30)
    assert memory.last is not None
    assert assess(replace(memory.last, at_s=99.0, stale=True), CONFIG, memory) == (None, memory)


@pytest.mark.parametrize("at_s", [0.0, 29.0, 30.0])
def test_counter_that_falls_and_clock_that_stands_still_add_no_demand(at_s: float) -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [10.0] * 30)
    assert memory.last is not None
    _, after = assess(replace(memory.last, at_s=at_s), CONFIG, memory)
    assert after.work == memory.work
    _, fallen = assess(replace(memory.last, at_s=31.0, totals=Totals()), CONFIG, memory)
    assert fallen.work == memory.work


def test_measured_starts_decide_the_horizon() -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [1.0])
    assert start_s(memory) == pytest.approx(13.0)
    assert start_s(Memory()) == pytest.approx(117.0), "the prior, before any was seen"


def test_short_surge_of_answers_fits_into_slots_and_one_of_prompts_does_not() -> None:
    """Two seconds of thrice the demand: of answers that take a minute nothing waits, since they hold their slots for longer."""
    answers = LearntSteps(50.0, 2.0, 0.0001, kv_tokens=1_000_000)
    prompts = LearntSteps(0.1, 0.005, 0.3, kv_tokens=1_000_000)
    config = replace(CONFIG, baseline=BatchLimits(512, 2048), itl_target_ms=1000, max_replicas=100)

    def now(steps: LearntSteps, rates: list[float]) -> int:
        _, memory = play(config, Memory(prior=steps), rates)
        assert memory.needs is not None
        return int(memory.needs.reason.split(" now,")[0].rsplit(" ", 1)[1])

    calm, surge = [200.0] * 120, [*[200.0] * 115, *[600.0] * 2, *[200.0] * 3]
    assert now(answers, surge) <= 1.1 * now(answers, calm)
    assert now(prompts, surge) >= 1.25 * now(prompts, calm)


def test_start_that_takes_longer_than_the_prior_is_noticed_while_it_goes_on() -> None:
    last = Intake(500.0, 3, 2, Totals())
    assert start_s(Memory(last=last, orders=(480.0,))) == pytest.approx(117.0)
    assert start_s(Memory(last=last, orders=(200.0, 480.0))) == pytest.approx(1.3 * 300)
    assert start_s(Memory(last=last, orders=(200.0,), starts=(20.0, 20.0, 20.0))) == pytest.approx(26.0)


def test_removal_waits_for_two_starts_at_the_least() -> None:
    _, memory = play(CONFIG, Memory(prior=STEPS), [120.0] * 60)
    _, memory = play(CONFIG, memory, [0.5] * 110)
    assert start_s(memory) == pytest.approx(13.0)
    short = memory.needs
    assert short is not None
    assert short.keep_long is not None
    slow = replace(memory, orders=(), starts=())
    assert memory.last is not None
    needs, _ = assess(replace(memory.last, at_s=memory.last.at_s + 6, starts=(100.0,)), CONFIG, slow)
    assert needs is not None
    assert needs.keep_long is None, "two starts of 130 s have not been seen to suffice"
