"""Whole passes under traffic: both actuators, their modes, what survives, and what it costs."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from fleet_world import World, spec
from toy_traffic import Traffic

from headway_operator.core.decide import decide
from headway_operator.core.plan import Emit, LimitsPatch, SetLimits, WriteStatus
from headway_planner.control import CONTROL_WINDOW_S

AUTO_SCALING = {
    "mode": "Auto",
    "minReplicas": 1,
    "maxReplicas": 3,
    "scaleDown": {"stabilizationWindowSeconds": 20, "periodSeconds": 10},
}
AUTO_TUNING = {"mode": "Auto", "cooldownSeconds": 10, "leaseSeconds": 60}
SLO = {"workloadClass": "interactive", "windowSeconds": 30, "interTokenLatency": {"targetMilliseconds": 200}}


def loop(scaling: dict | None = None, tuning: dict | None = None, **overrides: object) -> tuple[World, Traffic]:
    extra = {"scaling": scaling} if scaling else {}
    extra |= {"tuning": tuning} if tuning else {}
    world = World(spec(slo=SLO, **extra, **overrides), boot_s=6)
    traffic = Traffic(world)
    run(traffic, 10, 0)
    return world, traffic


def run(traffic: Traffic, seconds: int, rate: float) -> None:
    traffic.rate = rate
    for _ in range(seconds):
        traffic.second()


def desired(world: World) -> int:
    return int(world.status["scaling"]["desiredReplicas"])


def seqs(world: World) -> set[int | None]:
    return {world.engines[name].effective.max_num_seqs for name in world.ready()}


def test_load_raises_limits_and_replicas_and_its_end_takes_them_back_without_a_cut():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    uids = {name: pod.view.uid for name, pod in world.pods.items()}
    run(traffic, 60, 4)
    assert desired(world) == 3
    assert all(one is not None and one > 4 for one in seqs(world))
    assert {name: world.pods[name].view.uid for name in uids} == uids
    run(traffic, 100, 0)
    assert desired(world) == 1
    assert len(world.pods) == 1
    assert seqs(world) == {4}
    assert traffic.cut == 0


@pytest.mark.parametrize("rate", [2.5, 3, 4, 6])
def test_step_in_load_is_met_by_limits_first_and_by_replicas_second(rate: float):
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 60, rate)
    retuned, scaled = world.status["tuning"]["history"][-1], world.status["scaling"]["history"][-1]
    assert retuned["to"]["maxNumSeqs"] > retuned["from"]["maxNumSeqs"]
    assert retuned["time"] < scaled["time"]
    assert all(any(character.isdigit() for character in one["reason"]) for one in (retuned, scaled))


def test_constant_load_settles():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 240, 2)
    before = len(world.writes)
    run(traffic, 240, 2)
    later = [action for action in world.writes[before:] if isinstance(action, Emit)]
    assert [action.reason for action in later if "Scaled" in action.event_reason] == []
    assert len(later) <= 1


def test_busy_fleet_writes_its_status_every_five_seconds_at_most():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 240, 2)
    before = len(world.writes)
    run(traffic, 100, 2)
    assert sum(isinstance(action, WriteStatus) for action in world.writes[before:]) <= 20


def test_count_is_written_down_before_a_pod_is_made():
    world, traffic = loop(AUTO_SCALING)
    run(traffic, 40, 6)
    assert len(world.pods) > 1
    order = [type(action).__name__ for action in world.writes]
    counted = [
        index
        for index, action in enumerate(world.writes)
        if isinstance(action, WriteStatus) and action.status["scaling"]["desiredReplicas"] > 1
    ]
    pods = [
        index for index, name in enumerate(order) if name == "Apply" and world.writes[index].manifest["kind"] == "Pod"
    ]
    assert counted[0] < pods[1]


def test_new_operator_without_samples_holds_the_count_and_the_limits():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 60, 4)
    observed = replace(world.observe(), samples={})
    plan = decide(observed)
    status = next((action.status for action in plan.actions if isinstance(action, WriteStatus)), world.status)
    assert status["scaling"]["desiredReplicas"] == 3
    assert status["tuning"]["effective"] == world.status["tuning"]["effective"]
    assert not any(isinstance(action, SetLimits) for action in plan.actions)


def test_an_idle_fleet_does_not_say_for_ever_that_nobody_answers():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    assert world.status["tuning"]["reason"] == "hold: 0 of 0 replicas report", "of the pass before it had any"
    run(traffic, 10, 0)
    assert world.status["tuning"]["reason"] == "p95 TTFT unknown, ITL unknown, queue 0.0 per replica: nothing to change"
    before = len(world.writes)
    run(traffic, 60, 0)
    assert world.writes[before:] == []


def test_silent_engine_is_named_and_the_others_decide():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 40, 4)
    silent = world.ready()[0]
    world.engines[silent].silent = True
    world.engines[silent].effective = LimitsPatch(3, 64, 0, 256)
    run(traffic, 30, 4)
    assert silent in world.condition("MetricsAvailable")["message"]
    assert world.condition("TuningApplied")["status"] == "False"
    assert silent in world.condition("TuningApplied")["message"]
    assert desired(world) == 3


def test_advisory_reports_and_changes_nothing():
    world, traffic = loop({**AUTO_SCALING, "mode": "Advisory"}, {**AUTO_TUNING, "mode": "Advisory"})
    run(traffic, 40, 6)
    assert len(world.pods) == 1
    assert world.status["scaling"]["recommendedReplicas"] > 1
    assert world.status["scaling"]["reason"].startswith("Advisory: ")
    assert world.status["tuning"]["recommended"]["maxNumSeqs"] > 4
    assert seqs(world) == {4}


def test_external_mode_follows_the_spec():
    world, traffic = loop({"mode": "External"}, replicas=2)
    run(traffic, 30, 6)
    assert len(world.ready()) == 2
    assert world.condition("ScalingActive")["reason"] == "External"


def test_leaving_auto_never_makes_the_count_jump():
    world, traffic = loop(AUTO_SCALING)
    run(traffic, 60, 6)
    assert desired(world) == 3
    world.edit(scaling={"mode": "Off"})
    run(traffic, 30, 0)
    assert len(world.ready()) == 3


def test_entering_auto_goes_on_from_the_count_that_runs():
    world, traffic = loop(replicas=2)
    manifest = dict(world.manifest["spec"])
    del manifest["replicas"]
    world.manifest["spec"] = {**manifest, "scaling": AUTO_SCALING}
    run(traffic, 5, 0)
    assert desired(world) == 2


def test_changed_limits_reach_every_engine_in_one_pass_without_a_restart():
    world, _ = loop(replicas=3)
    uids = {pod.view.uid for pod in world.pods.values()}
    world.edit(engine={**spec()["engine"], "limits": {"maxNumSeqs": 7, "maxNumBatchedTokens": 70}})
    world.step()
    assert seqs(world) == {7}
    assert {pod.view.uid for pod in world.pods.values()} == uids
    assert {engine.baseline.max_num_seqs for engine in world.engines.values()} == {7}
    world.settle()
    assert world.status["tuning"]["appliedReplicas"] == 3


def test_new_pod_starts_with_the_limits_in_force_and_learns_the_baseline():
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, 60, 4)
    tuned = world.status["tuning"]["effective"]["maxNumSeqs"]
    lost = world.ready()[0]
    world._forget(lost)
    traffic.queues.pop(lost)
    run(traffic, 1, 4)
    made = world.pods[lost].manifest["spec"]["containers"][0]["args"]
    assert f"--max-num-seqs={tuned}" in made
    run(traffic, 10, 4)
    assert world.engines[lost].baseline.max_num_seqs == 4
    assert world.engines[lost].effective.max_num_seqs == world.status["tuning"]["effective"]["maxNumSeqs"]


def test_lease_is_renewed_while_there_is_traffic_and_lapses_with_the_operator():
    world, traffic = loop(None, AUTO_TUNING)
    run(traffic, 150, 2)
    assert all(engine.lease_until_s - world.now_s > 20 for engine in world.engines.values())
    assert seqs(world) != {4}
    world.tick(120)
    assert seqs(world) == {4}


def test_tuned_limits_stay_inside_bounds_and_above_one_token_per_sequence():
    tuning = {**AUTO_TUNING, "bounds": {"maxNumSeqs": {"min": 2, "max": 6}}}
    world, traffic = loop(None, tuning)
    run(traffic, 120, 6)
    sent = [action.limits for action in world.writes if isinstance(action, SetLimits)]
    assert sent
    assert all(2 <= (limits.max_num_seqs or 0) <= 6 for limits in sent)


def test_objective_is_judged_by_the_pooled_percentile():
    world, traffic = loop()
    run(traffic, 30, 0.5)
    assert world.condition("SLOMet")["status"] == "True"
    assert world.status["slo"]["ttftObserved"].endswith("ms")
    run(traffic, 60, 3)
    assert world.condition("SLOMet")["reason"] == "TargetMissed"
    assert "> 1500 ms" in world.condition("SLOMet")["message"]
    run(traffic, 200, 0)
    assert world.condition("SLOMet")["reason"] == "NoTraffic"
    assert "ttftObserved" not in world.status["slo"]


def test_maximum_is_reported_as_a_limit():
    world, traffic = loop({**AUTO_SCALING, "maxReplicas": 1})
    run(traffic, 40, 6)
    assert world.condition("ScalingLimited")["reason"] == "MaxReplicas"


def test_nothing_is_limited_any_more_when_the_load_is_over():
    world, traffic = loop({**AUTO_SCALING, "maxReplicas": 1})
    run(traffic, 40, 6)
    traffic.rate = 0
    while any(engine.running or engine.waiting for engine in world.engines.values()):
        traffic.second()
    run(traffic, round(CONTROL_WINDOW_S) + 5, 0)
    assert world.condition("ScalingLimited")["status"] == "False"
    assert "wanted" not in world.status["scaling"]["reason"]


@pytest.mark.parametrize("seconds", [0, 100])
def test_pass_over_an_idle_fleet_is_cheap(seconds: int):
    world, traffic = loop(AUTO_SCALING, AUTO_TUNING)
    run(traffic, seconds, 0)
    observed = world.observe()
    assert decide(observed).actions == ()
    # 2,000 to 2,500 of them take 1.2 ms on an idle core.
    assert calls(lambda: decide(observed)) < 5_000


def calls(work: Callable[[], object]) -> int:
    """How many Python functions run: a cost that no other process can change."""
    count = itertools.count()

    def note(_frame: object, event: str, _arg: object) -> None:
        if event == "call":
            next(count)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return next(count)


def test_short_cooldown_does_not_keep_an_idle_fleet_large():
    world, traffic = loop(AUTO_SCALING, {**AUTO_TUNING, "cooldownSeconds": 5})
    run(traffic, 40, 4)
    assert desired(world) > 1
    run(traffic, 100, 0)
    assert desired(world) == 1
