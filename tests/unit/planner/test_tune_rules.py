"""The limit actuator: which rule answers which load."""

from dataclasses import replace

import pytest

from headway_planner.model import BatchLimits, Latency, LoadView, TuneConfig, TuneState
from headway_planner.tune import clamp, decide_tune

CONFIG = TuneConfig(
    seqs_min=2, seqs_max=32, tokens_min=32, tokens_max=512, ttft_target_ms=1000, itl_target_ms=100, cooldown_s=30
)
STATE = TuneState(limits=BatchLimits(8, 128), baseline=BatchLimits(8, 128))
CALM = LoadView(serving=1, reporting=1, span_s=15, running=4, busiest_running=4, arrivals=10, finished=10, active=True)
CROWDED = replace(CALM, waiting=3, running=8, busiest_running=8)


def itl(high: float, median: float | None = None) -> Latency:
    return Latency(high, high if median is None else median, 200)


def seconds(high: float) -> Latency:
    return Latency(high, high, 50)


def tune(view: LoadView, state: TuneState = STATE, config: TuneConfig = CONFIG, now_s: float = 1000.0):
    return decide_tune(view, config, state, now_s)


def test_calm_load_changes_nothing():
    assert tune(replace(CALM, itl=itl(50))).limits == STATE.limits


def test_queue_with_a_binding_cap_and_fast_steps_raises_the_cap():
    decision = tune(replace(CROWDED, itl=itl(40)))
    assert decision.limits == BatchLimits(12, 128)
    assert decision.reason == (
        "queue 3.0 per replica with all 8 sequences running, ITL 40 ms <= 100 ms: maxNumSeqs 8 -> 12"
    )


def test_raise_before_any_gap_between_tokens_was_seen_says_so():
    decision = tune(CROWDED)
    assert decision.reason == "queue 3.0 per replica with all 8 sequences running, no ITL seen yet: maxNumSeqs 8 -> 12"


def test_raise_is_smaller_when_latency_leaves_less_room():
    assert tune(replace(CROWDED, itl=itl(70))).limits.seqs == 10


def test_raise_that_is_predicted_to_break_the_target_is_not_made():
    decision = tune(replace(CROWDED, itl=itl(95)))
    assert decision.limits == STATE.limits
    assert "leaves no room" in decision.reason


def test_full_kv_cache_admits_no_more_sequences():
    assert tune(replace(CROWDED, kv_usage=0.95)).limits == STATE.limits


def test_queue_without_a_binding_cap_is_not_answered_by_the_cap():
    assert tune(replace(CROWDED, busiest_running=3)).limits == STATE.limits


def test_slow_steps_lower_the_cap():
    assert tune(replace(CROWDED, itl=itl(130))).limits == BatchLimits(6, 128)


def test_lowering_starts_from_what_really_runs():
    assert tune(replace(CALM, busiest_running=5, itl=itl(130))).limits == BatchLimits(4, 128)


def test_slow_steps_and_a_long_queue_together_lower_nothing():
    overload = replace(CROWDED, itl=itl(130), ttft=seconds(9000), queue_wait=seconds(8000), prefill=seconds(400))
    decision = tune(overload)
    assert decision.limits == STATE.limits
    assert "capacity, not limits" in decision.reason


def test_slow_steps_while_a_whole_batch_waits_lower_nothing():
    assert tune(replace(CROWDED, itl=itl(130), waiting=8)).limits == STATE.limits


def test_lowered_cap_returns_to_the_baseline_when_its_queue_makes_first_tokens_late():
    overload = replace(CROWDED, itl=itl(130), ttft=seconds(9000), queue_wait=seconds(8000), prefill=seconds(400))
    lowered = replace(STATE, limits=BatchLimits(2, 64))
    assert tune(overload, lowered).limits == STATE.baseline


def test_slow_tail_beside_prefills_lowers_the_token_budget():
    view = replace(CALM, itl=itl(130, median=40), prompt_share=0.6)
    assert tune(view).limits == BatchLimits(8, 102)


def test_few_samples_prove_no_breach():
    assert tune(replace(CALM, itl=Latency(500, 500, 3))).limits == STATE.limits


def test_late_first_token_with_a_short_queue_raises_the_token_budget():
    view = replace(CALM, ttft=seconds(1500), queue_wait=seconds(100), prefill=seconds(1400), itl=itl(50))
    assert tune(view).limits == BatchLimits(8, 160)


def test_late_first_token_without_latency_room_lowers_the_cap():
    view = replace(CALM, ttft=seconds(1500), queue_wait=seconds(100), prefill=seconds(1400), itl=itl(90))
    assert tune(view).limits == BatchLimits(3, 128)


def test_late_first_token_because_of_the_queue_is_left_to_scaling():
    decision = tune(replace(CALM, ttft=seconds(1500), queue_wait=seconds(1400), prefill=seconds(100)))
    assert decision.limits == STATE.limits
    assert "capacity, not limits" in decision.reason


def test_infeasible_prompt_is_reported_and_pins_nothing():
    config = replace(CONFIG, tokens_max=128)
    view = replace(CALM, busiest_running=1, ttft=seconds(1500), prefill=seconds(1400), itl=itl(50))
    decision = tune(view, config=config)
    assert decision.limits == STATE.limits
    assert "not feasible" in decision.reason


def test_lowered_budget_returns_when_there_is_room_again():
    state = replace(STATE, limits=BatchLimits(8, 64))
    assert tune(replace(CALM, itl=itl(40)), state).limits == BatchLimits(8, 80)


def test_no_traffic_returns_to_the_baseline():
    state = replace(STATE, limits=BatchLimits(20, 128), last_change_s=900.0)
    quiet = LoadView(serving=1, reporting=1, span_s=60, quiet=True)
    assert tune(quiet, state).limits == STATE.baseline


def test_missing_samples_hold():
    decision = tune(replace(CROWDED, serving=3, reporting=1, itl=itl(130)))
    assert decision.hold
    assert decision.limits == STATE.limits


def test_two_changes_are_a_cooldown_apart():
    state = replace(STATE, last_change_s=980.0, before=BatchLimits(10, 128))
    assert tune(replace(CROWDED, itl=itl(130)), state).limits == STATE.limits
    assert tune(replace(CROWDED, itl=itl(130)), state, now_s=1010.0).limits.seqs == 6


def test_a_raise_that_did_not_suffice_goes_on_after_a_fifth_of_the_cooldown():
    state = replace(STATE, last_change_s=994.0, before=BatchLimits(6, 128))
    assert tune(replace(CROWDED, itl=itl(40)), state).limits.seqs == 12
    assert tune(replace(CROWDED, itl=itl(40)), state, now_s=999.0).hold
    assert tune(replace(CROWDED, itl=itl(40)), state, replace(CONFIG, cooldown_s=300)).hold
    assert tune(replace(CROWDED, itl=itl(40)), state, replace(CONFIG, cooldown_s=5)).limits.seqs == 12


@pytest.mark.parametrize(
    "changes",
    [{"waiting": 0}, {"itl": itl(130)}, {"busiest_running": 4}],
    ids=["no queue", "steps too slow", "cap not full"],
)
def test_after_a_raise_only_a_queue_before_a_full_batch_of_short_steps_cuts_the_cooldown(changes: dict):
    state = replace(STATE, last_change_s=990.0, before=BatchLimits(6, 128))
    assert tune(replace(CROWDED, **({"itl": itl(40)} | changes)), state).hold


def test_change_of_direction_waits_for_two_cooldowns():
    state = replace(STATE, last_change_s=960.0, before=BatchLimits(6, 128))
    assert tune(replace(CROWDED, itl=itl(130)), state).limits == STATE.limits
    assert tune(replace(CROWDED, itl=itl(130)), state, now_s=1020.0).limits.seqs == 6


def test_a_larger_token_budget_does_not_hold_up_a_lower_cap():
    state = replace(STATE, last_change_s=960.0, before=BatchLimits(8, 64))
    assert tune(replace(CROWDED, itl=itl(130)), state).limits == BatchLimits(6, 128)


def test_a_token_budget_that_rose_with_a_lower_cap_goes_back_after_two_cooldowns_only():
    state = replace(STATE, last_change_s=960.0, before=BatchLimits(12, 80))
    late = replace(CALM, itl=itl(130, 70), prompt_share=0.5)
    assert tune(late, state).limits == STATE.limits
    assert tune(late, state, now_s=1020.0).limits == BatchLimits(8, 102)


@pytest.mark.parametrize("limits", [BatchLimits(1, 1), BatchLimits(64, 4096), BatchLimits(32, 32), BatchLimits(3, 600)])
def test_limits_stay_inside_the_bounds_with_a_token_for_every_sequence(limits):
    inside = clamp(limits, CONFIG)
    assert CONFIG.seqs_min <= inside.seqs <= CONFIG.seqs_max
    assert max(CONFIG.tokens_min, inside.seqs) <= inside.tokens <= CONFIG.tokens_max


def test_limits_outside_new_bounds_move_inside_at_once():
    state = replace(STATE, limits=BatchLimits(64, 128), last_change_s=999.0)
    decision = tune(CALM, state)
    assert decision.limits == BatchLimits(32, 128)
    assert decision.reason == "limits moved inside tuning.bounds: maxNumSeqs 64 -> 32"
