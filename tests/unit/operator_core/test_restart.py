"""A new operator process: no memory, no samples at first, and a status to go on from."""

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from fleet_world import World
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded_fleet import SLO, desired, loaded

from headway_operator.api.v1alpha1 import DemandStatus
from headway_operator.core.decide import decide
from headway_operator.core.memory import Moment, remembered, restored
from headway_operator.core.plan import Emit, SetLimits, WriteStatus


def at(now: datetime) -> Moment:
    """A moment of a fleet whose batch work has no deadline."""
    return Moment(now, 0.0, math.inf)


def restart(world: World) -> None:
    """The process and everything in it is gone: its memory and its samples."""
    world.memory = None
    for series in world.samples.values():
        series.clear()


@settings(max_examples=6)
@given(seconds=st.integers(5, 150))
def test_first_decision_after_a_restart_shrinks_nothing_and_keeps_the_limits(seconds: int) -> None:
    world, traffic = loaded(seconds)
    count, limits = desired(world), world.status["tuning"]["effective"]
    restart(world)
    plan = decide(world.observe())
    written = next((action.status for action in plan.actions if isinstance(action, WriteStatus)), world.status)
    assert written["scaling"]["desiredReplicas"] == count
    assert written["tuning"]["effective"] == limits
    assert not any(isinstance(action, SetLimits) for action in plan.actions)
    for _ in range(20):
        traffic.second()
        assert desired(world) >= count, "under load nothing is removed later either"


def test_a_new_operator_that_has_hardly_asked_raises_no_alarm_and_after_ten_seconds_of_silence_it_does() -> None:
    world, traffic = loaded(60)
    said = {one["type"]: one["status"] for one in world.status["conditions"]}
    watched = ("MetricsAvailable", "ScalingActive", "TuningApplied")
    assert [said[kind] for kind in watched] == ["True"] * 3
    restart(world)
    before = len(world.writes)
    world.run()
    assert [world.condition(kind)["status"] for kind in watched] == ["True"] * 3
    for _ in range(5):
        traffic.second()
    assert [world.condition(kind)["status"] for kind in watched] == ["True"] * 3
    assert [action for action in world.writes[before:] if isinstance(action, Emit) and action.type == "Warning"] == []
    restart(world)
    for engine in world.engines.values():
        engine.silent = True
    for _ in range(12):
        world.step(1.0)
    assert [world.condition(kind)["status"] for kind in watched] == ["False"] * 3


def test_a_burst_that_a_new_operator_finds_orders_nothing_before_it_was_seen_to_stay() -> None:
    world, traffic = loaded(5)
    traffic.rate = 0
    for _ in range(40):
        traffic.second()
    count = desired(world)
    world.status.pop("demand", None)
    restart(world)
    for engine in world.engines.values():
        engine.waiting = 20  # came in this moment, and the next step takes them in
    world.step(1.0)
    assert desired(world) <= count
    for engine in world.engines.values():
        engine.waiting = 0
    for _ in range(5):
        world.step(1.0)
        assert desired(world) <= count


def test_a_lull_that_a_new_operator_finds_is_no_end_of_the_traffic() -> None:
    world, traffic = loaded(60)
    limits = world.status["tuning"]["effective"]
    traffic.rate = 0
    while any(engine.running + engine.waiting for engine in world.engines.values()):
        traffic.second()
    assert world.status["tuning"]["effective"] == limits != world.status["tuning"]["effective"] | {"maxNumSeqs": 4}
    restart(world)
    for _ in range(20):
        traffic.second()
        assert world.status["tuning"]["effective"] == limits
    for _ in range(SLO["windowSeconds"]):
        traffic.second()
    assert world.status["tuning"]["effective"]["maxNumSeqs"] == 4


def test_restart_goes_on_with_the_demand_and_the_step_model() -> None:
    world, traffic = loaded(130)
    kept = DemandStatus.model_validate(world.status["demand"])
    assert kept.per_minute
    assert kept.input_tokens == 24
    assert (kept.step_microseconds or 0) / 1000 == pytest.approx(40, rel=0.1)
    restart(world)
    for _ in range(2):
        traffic.second()
    assert world.memory is not None
    assert world.memory.control.demand.needs is not None, "known with the second pass, not after a minute of watching"


def test_idle_fleet_does_not_renew_its_demand() -> None:
    world, traffic = loaded(90)
    traffic.rate = 0.0
    for _ in range(200):
        traffic.second()
    kept = json.dumps(world.status["demand"])
    before = len(world.writes)
    for _ in range(300):
        traffic.second()
    assert json.dumps(world.status["demand"]) == kept
    assert len(world.writes) == before


def test_demand_of_other_pods_is_not_believed() -> None:
    world, _ = loaded(90)
    kept = DemandStatus.model_validate(world.status["demand"])
    assert restored(kept, kept.revision, at(world.now)).control.demand.work
    assert restored(kept, "000000", at(world.now)).control.demand.work == ()


@pytest.mark.parametrize("gap_s", [-86_400, -5, 0, 30, 86_400])
def test_any_gap_between_two_operators_makes_an_hour_at_the_most(gap_s: int) -> None:
    world, _ = loaded(130)
    kept = DemandStatus.model_validate(world.status["demand"])
    work = restored(kept, kept.revision, at(kept.time + timedelta(seconds=gap_s))).control.demand.work
    assert len(work) <= 3600
    assert work[-1] == kept.per_minute[-1] / 1000


def test_demand_is_renewed_each_minute_under_load() -> None:
    world, _ = loaded(90)
    assert world.memory is not None
    kept = DemandStatus.model_validate(world.status["demand"])
    assert remembered(world.memory, kept, kept.time + timedelta(seconds=59), math.inf) is kept
    later = remembered(world.memory, kept, kept.time + timedelta(seconds=60), math.inf)
    assert later is not None
    assert later.time > kept.time


def test_dead_operator_leaves_the_spec_s_limits_behind() -> None:
    world, _ = loaded(60)
    lent = {engine.effective.max_num_seqs for engine in world.engines.values()}
    assert lent != {4}
    world.tick(61)  # the lease is 60 s, and nobody renews it
    assert {engine.effective.max_num_seqs for engine in world.engines.values()} == {4}


def test_new_operator_lends_what_the_status_says_again() -> None:
    world, traffic = loaded(60)
    wanted = world.status["tuning"]["effective"]["maxNumSeqs"]
    world.tick(61)
    restart(world)
    for _ in range(3):
        traffic.second()
    assert {engine.effective.max_num_seqs for engine in world.engines.values()} == {wanted}


def test_memory_is_a_value_that_a_pass_does_not_change() -> None:
    world, _ = loaded(60)
    observed = world.observe()
    first, again = decide(observed), decide(observed)
    assert first == again
    assert observed.memory is world.memory
    assert replace(observed, memory=first.memory) != observed
