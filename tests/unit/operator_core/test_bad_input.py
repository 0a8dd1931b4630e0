"""Clocks that jump, numbers that cannot be, pods that never come: each has an answer, and the loop goes on."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fleet_world import World, spec
from loaded_fleet import SCALING, SLO, TUNING, desired, loaded
from toy_traffic import Traffic

from headway_operator.core import clock
from headway_operator.core.decide import decide
from headway_operator.core.observed import EngineSample
from headway_operator.core.plan import Plan, WriteStatus

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def written(plan: Plan, world: World) -> dict:
    """The status after a plan."""
    return next((dict(action.status) for action in plan.actions if isinstance(action, WriteStatus)), world.status)


def spoil(world: World, change: Callable[[EngineSample], EngineSample]) -> None:
    for series in world.samples.values():
        series[:] = [change(sample) for sample in series]


@pytest.mark.parametrize(
    "change",
    [
        lambda sample: replace(sample, kv_usage=math.nan),
        lambda sample: replace(sample, num_waiting=-1),
        lambda sample: replace(sample, taken_s=sample.taken_s - 3600),
    ],
    ids=["NaN", "negative", "an hour old"],
)
def test_samples_that_cannot_be_believed_hold_both_actuators_and_say_so(
    change: Callable[[EngineSample], EngineSample],
) -> None:
    world, _ = loaded(60)
    count, limits = desired(world), world.status["tuning"]["effective"]
    spoil(world, change)
    after = written(decide(world.observe()), world)
    assert after["scaling"]["desiredReplicas"] == count
    assert after["tuning"]["effective"] == limits
    found = {one["type"]: one for one in after["conditions"]}
    assert found["MetricsAvailable"]["status"] == "False"
    assert found["ScalingActive"]["reason"] == "MetricsLost"


def test_nonsense_in_the_step_times_teaches_nothing() -> None:
    world, traffic = loaded(60)
    for _ in range(20):
        traffic.second()
        spoil(world, lambda sample: replace(sample, step_sum_ms=math.nan))
    assert desired(world) >= 1
    assert world.memory is not None
    assert all(math.isfinite(one) for one in world.memory.control.demand.work)


def test_counter_that_falls_without_a_restart_holds() -> None:
    world, traffic = loaded(60)
    count = desired(world)
    for engine in world.engines.values():
        engine.received = engine.tokens = 0
    world.step()
    assert world.condition("MetricsAvailable")["status"] == "False"
    assert desired(world) == count
    for _ in range(40):
        traffic.second()
    assert world.condition("MetricsAvailable")["status"] == "True", "the fall has left the window"


@pytest.mark.parametrize("jump", [-HOUR, HOUR, -timedelta(days=400)], ids=["back", "forward", "years back"])
def test_wall_clock_that_jumps_neither_freezes_nor_hurries(jump: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    world, traffic = loaded(60)
    count = desired(world)
    shift = world.now + jump - world.now
    original = World.now.fget
    assert original is not None
    monkeypatch.setattr(World, "now", property(lambda self: original(self) + shift))
    for _ in range(15):
        traffic.second()
        assert desired(world) == count, "no removal because an hour seems to have passed"
    traffic.rate = 0.0
    for _ in range(120):
        traffic.second()
    assert desired(world) == 1, "and no waiting until the clock is back where it was"
    assert world.status["tuning"]["effective"]["maxNumSeqs"] == 4


def test_time_in_the_future_counts_as_now() -> None:
    found = clock.placed([NOON + HOUR], {}, NOON, 500.0, None)
    assert found == {NOON + HOUR: 500.0}


def test_age_is_measured_once_and_grows_with_the_monotonic_clock() -> None:
    first = clock.placed([NOON], {}, NOON + timedelta(seconds=40), 500.0, None)
    assert first == {NOON: 460.0}
    assert clock.placed([NOON], first, NOON - HOUR, 510.0, 500.0) == {NOON: 460.0}


def test_new_time_is_no_older_than_the_pass_before() -> None:
    assert clock.placed([NOON], {}, NOON + HOUR, 510.0, 505.0) == {NOON: 503.0}


def test_zero_traffic_from_the_first_day_is_idle_not_unknown() -> None:
    world, traffic = loaded(0)
    for _ in range(90):
        traffic.second()
    assert desired(world) == 1
    assert world.memory is not None
    assert world.memory.control.demand.needs is not None
    assert "demand" not in world.status, "nothing to remember, nothing to write"


def test_pod_that_stays_pending_forever_stops_growth_and_nothing_else() -> None:
    world = World(spec(slo=SLO, scaling=SCALING, tuning=TUNING), boot_s=6, gpus=1)
    traffic = Traffic(world)
    for second in range(80):
        traffic.rate = 3.0 if second >= 10 else 0.0
        traffic.second()
    assert len(world.ready()) == 1
    assert world.condition("ScalingLimited")["status"] == "True"
    assert desired(world) <= 2, "no order is added to one that no node takes"
    assert "wait for a place on a node" in world.status["scaling"]["reason"]
    traffic.rate = 0.0
    for _ in range(200):
        traffic.second()
    assert desired(world) == 1
    assert world.condition("ScalingLimited")["status"] == "False"


def test_target_that_no_engine_reaches_does_not_pin_the_fleet_to_its_maximum() -> None:
    slo = {**SLO, "interTokenLatency": {"targetMilliseconds": 20}}  # a sequence alone takes 52 ms a token
    world = World(spec(slo=slo, scaling={**SCALING, "maxReplicas": 10}, tuning=TUNING), boot_s=6)
    traffic = Traffic(world)
    for second in range(150):
        traffic.rate = 1.0 if second >= 10 else 0.0
        traffic.second()
    assert desired(world) <= 2
    assert world.condition("SLOMet")["status"] == "False"


def test_requests_that_no_engine_can_serve_order_no_replica() -> None:
    world, traffic = loaded(60, rate=1.0)
    assert desired(world) == 1
    for _ in range(30):
        for engine in world.engines.values():
            engine.invalid += 50
        traffic.second()
    assert desired(world) == 1


def test_more_silent_engines_than_a_message_holds_are_counted() -> None:
    world = World(spec(slo=SLO, replicas=40), boot_s=1)
    for _ in range(20):
        world.step()
    for engine in world.engines.values():
        engine.silent = True
    for _ in range(20):
        world.step()
    assert "and 30 more" in world.condition("MetricsAvailable")["message"]
