"""The replica actuator: when it moves, how far, and what holds it back."""

from dataclasses import replace

from headway_planner.control import ControlConfig, ControlMemory, Sight, control
from headway_planner.coordinator import Intake, Totals
from headway_planner.model import (
    BatchLimits,
    Latency,
    LoadView,
    Needs,
    ScaleConfig,
    ScaleEvent,
    ScaleState,
    TuneConfig,
    TuneState,
)
from headway_planner.scale import QUEUE_SEEN_S, decide_scale

CONFIG = ScaleConfig(
    min_replicas=1,
    max_replicas=8,
    ttft_target_ms=800,
    itl_target_ms=100,
    up_window_s=0,
    up_step=4,
    up_period_s=60,
    down_window_s=60,
    down_step=1,
    down_period_s=60,
)
STATE = ScaleState(desired=2, limits=BatchLimits(8, 128), baseline_seqs=8)
CALM = LoadView(serving=2, reporting=2, span_s=15, running=12, busiest_running=6, arrivals=30, finished=30, active=True)
FLOODED = replace(CALM, waiting=19, running=16, busiest_running=8, arrivals=60, finished=30)
IDLE = LoadView(serving=2, reporting=2, span_s=15)
NOW = 1000.0


def latency(high: float) -> Latency:
    return Latency(high, high, 50)


def scale(view: LoadView, state: ScaleState = STATE, config: ScaleConfig = CONFIG, now_s: float = NOW):
    return decide_scale(view, config, state, now_s)


def low_for(seconds: float, **changes: object) -> ScaleState:
    return replace(STATE, recommended=1, recommended_since_s=NOW - seconds, **changes)


def test_calm_load_keeps_the_count():
    assert scale(CALM).replicas == 2


def test_long_queue_adds_replicas_in_proportion_and_says_why():
    decision = scale(replace(FLOODED, ttft=latency(1310), queue_wait=latency(900)))
    assert decision.replicas == 4
    assert decision.reason == "queue 9.5 per replica > 4, p95 TTFT 1310 ms > 800 ms (queue wait 900 ms)"
    of_all_but_one = Latency(1310, 900, 118, share=0.99)
    assert "p99 TTFT 1310 ms > 800 ms" in scale(replace(FLOODED, ttft=of_all_but_one)).reason


def test_late_first_tokens_because_of_the_queue_add_a_replica():
    view = replace(CALM, waiting=3, ttft=latency(1000), queue_wait=latency(900))
    assert scale(view).replicas == 3


def test_late_first_tokens_because_of_compute_add_none():
    view = replace(CALM, waiting=3, ttft=latency(1000), queue_wait=latency(100))
    assert scale(view).replicas == 2


def test_scale_up_credits_replicas_that_are_starting():
    warming = replace(STATE, desired=4, warming=2)
    assert scale(replace(FLOODED, waiting=12, arrivals=40), warming).replicas == 4


def test_late_first_tokens_wait_for_replicas_that_are_starting():
    view = replace(CALM, waiting=3, ttft=latency(1000), queue_wait=latency(900))
    assert scale(view, replace(STATE, desired=3, warming=1)).replicas == 3


def test_replicas_without_a_place_stop_further_ones():
    decision = scale(FLOODED, replace(STATE, desired=3, blocked=1))
    assert decision.replicas == 3
    assert "wait for a place" in decision.reason


def test_replicas_without_a_place_do_not_stop_scale_down():
    state = replace(low_for(60), desired=3, blocked=1)
    assert scale(IDLE, state).replicas == 2


def test_growth_per_period_is_limited():
    config = replace(CONFIG, up_step=1)
    decision = scale(FLOODED, config=config)
    assert decision.replicas == 3
    assert "scaleUp allows 1 in 60 s" in decision.reason
    grown = replace(STATE, history=(ScaleEvent(NOW - 30, 1, 2),))
    assert scale(FLOODED, grown, config).replicas == 2


def test_maximum_is_never_passed_and_is_reported():
    decision = scale(FLOODED, config=replace(CONFIG, max_replicas=3))
    assert decision.replicas == 3
    assert decision.limited


def test_changed_bounds_apply_at_once():
    assert scale(CALM, config=replace(CONFIG, min_replicas=3)).replicas == 3
    assert scale(CALM, replace(STATE, desired=9)).replicas == 8


def test_idle_fleet_returns_to_the_minimum_after_the_window():
    assert scale(IDLE).replicas == 2
    assert scale(IDLE).since_s == NOW
    assert scale(IDLE, low_for(59)).replicas == 2
    assert scale(IDLE, low_for(60)).replicas == 1


def test_break_in_the_recommendation_starts_the_window_again():
    interrupted = replace(STATE, recommended=2, recommended_since_s=None)
    assert scale(IDLE, interrupted).since_s == NOW


def test_nothing_shrinks_sooner_after_a_growth_than_the_window():
    state = low_for(500, history=(ScaleEvent(NOW - 30, 1, 2),))
    assert scale(IDLE, state).replicas == 2


def test_removals_per_period_are_limited():
    state = replace(low_for(500), desired=4, history=(ScaleEvent(NOW - 30, 5, 4),))
    assert scale(replace(IDLE, serving=4, reporting=4), state).replicas == 4


def test_scale_down_checks_that_the_rest_can_carry_the_load():
    light = replace(CALM, running=2, busiest_running=1)
    assert scale(light, low_for(60)).replicas == 1
    assert scale(replace(light, running=6, busiest_running=3), low_for(60)).replicas == 2
    assert scale(replace(light, itl=latency(60)), low_for(60)).replicas == 2
    assert scale(replace(light, ttft=latency(500)), low_for(60)).replicas == 2
    assert scale(replace(light, waiting=3), low_for(60)).replicas == 2


def test_tuned_limits_are_no_capacity():
    state = replace(low_for(60), limits=BatchLimits(64, 128))
    assert scale(replace(CALM, running=6, busiest_running=3), state).replicas == 2


def test_missing_samples_hold_the_count():
    decision = scale(replace(IDLE, serving=4, reporting=1), replace(low_for(500), desired=4))
    assert decision.replicas == 4
    assert decision.hold


def test_no_samples_at_all_hold_the_count():
    assert scale(LoadView(serving=2, reporting=0), low_for(500)).replicas == 2


def test_one_silent_replica_does_not_stop_growth():
    assert scale(replace(FLOODED, serving=3, reporting=2), replace(STATE, desired=3)).replicas > 3


def test_silent_replica_counts_as_the_busiest_one_when_shrinking():
    view = replace(CALM, serving=3, reporting=2, running=5, busiest_running=4)
    assert scale(view, replace(low_for(60), desired=3, recommended=2)).replicas == 3


def test_first_second_after_a_restart_shrinks_nothing():
    assert scale(replace(IDLE, span_s=0), low_for(500)).replicas == 2


def test_a_queue_of_one_moment_orders_nothing():
    moment = replace(FLOODED, span_s=0, arrivals=0, finished=0)
    assert scale(moment).replicas == 2, "a new operator's first sample, or a new engine's"
    assert scale(replace(moment, span_s=QUEUE_SEEN_S - 0.1)).replicas == 2
    assert scale(replace(moment, span_s=QUEUE_SEEN_S)).replicas > 2
    late = replace(moment, ttft=latency(1500), queue_wait=latency(1200))
    assert scale(late).replicas > 2, "first tokens that were late are no moment"


def test_raised_limits_get_time_to_take_a_queue_in():
    config = ControlConfig(None, CONFIG, TuneConfig(1, 64, 16, 512, 800, 100, cooldown_s=30))
    view = replace(FLOODED, waiting=10, running=8, busiest_running=4)
    sight = Sight(Intake(NOW, 2, 2, Totals()), view, view)
    tune = TuneState(BatchLimits(16, 128), BatchLimits(8, 128), NOW - 5, BatchLimits(8, 128))
    held, _ = control(sight, config, (STATE, tune), ControlMemory(), NOW)
    assert held.scale is not None
    assert held.scale.replicas == 2
    later, _ = control(sight, config, (STATE, tune), ControlMemory(), NOW + 10)
    assert later.scale is not None
    assert later.scale.replicas > 2


def test_a_queue_that_is_gone_orders_no_replica_for_what_the_mean_still_shows():
    late = replace(CALM, waiting=3, ttft=latency(1000), queue_wait=latency(900))
    assert (scale(late).replicas, scale(FLOODED).replicas) == (3, 4)
    assert scale(replace(late, emptied=True)).replicas == 2
    assert scale(replace(FLOODED, emptied=True)).replicas == 2
    calm = Needs(up=2, keep=2, keep_long=2, reason="demand 0.0 engines")
    assert decide_scale(late, CONFIG, STATE, NOW, calm).replicas == 3, (
        "the model thinks that they suffice, and they do not"
    )
    assert decide_scale(replace(late, emptied=True), CONFIG, STATE, NOW, calm).replicas == 2


def test_first_tokens_late_from_before_a_new_replica_joined_start_no_further_one():
    late = replace(CALM, waiting=3, ttft=latency(1500), queue_wait=latency(1200))
    assert scale(late).replicas == 3, "late because of the queue"
    assert scale(late, replace(STATE, joined_at_s=NOW - 19)).replicas == 2, "the window still shows the time without it"
    assert scale(late, replace(STATE, joined_at_s=NOW - 20)).replicas == 3
    flooded = scale(FLOODED, replace(STATE, joined_at_s=NOW - 1)).replicas
    assert flooded == scale(FLOODED).replicas > 2, "a long queue is of now and waits for nothing"
