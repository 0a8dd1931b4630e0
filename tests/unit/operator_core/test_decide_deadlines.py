"""Whole passes over a fleet whose batch work has a deadline: it may wait, and it is finished in time."""

from typing import Any

import pytest
from fleet_world import World, spec
from loaded_fleet import SCALING, TUNING, desired
from toy_traffic import Traffic

ALONE = {"workloadClass": "batch", "windowSeconds": 30}
BESIDE = {"workloadClass": "interactive", "windowSeconds": 30}


def objective(shared: bool, deadline_s: int | None) -> dict[str, Any]:
    """Batch work alone, or beside a class that has no requests now."""
    own: dict[str, Any] = {} if deadline_s is None else {"deadlineSeconds": deadline_s}
    return {**BESIDE, "classes": [{"workloadClass": "batch", **own}]} if shared else {**ALONE, **own}


def heap(shared: bool, deadline_s: int | None, requests: int = 200) -> tuple[World, Traffic]:
    """A fleet that was idle, with a heap of batch work: some 170 s of one engine."""
    world = World(spec(slo=objective(shared, deadline_s), scaling=SCALING), boot_s=6)
    traffic = Traffic(world, kind="batch")
    for _ in range(10):
        traffic.second()
    traffic.owed += requests
    return world, traffic


def most(world: World, traffic: Traffic, seconds: int) -> int:
    """The largest count that was wanted meanwhile."""
    counts = []
    for _ in range(seconds):
        traffic.second()
        counts.append(desired(world))
    return max(counts)


@pytest.mark.parametrize("shared", [False, True])
def test_work_that_may_wait_starts_no_replica(shared: bool) -> None:
    world, traffic = heap(shared, 3600)
    assert most(world, traffic, 240) == 1
    (engine,) = world.engines.values()
    assert engine.finished == engine.received == 200


def test_without_a_deadline_the_same_work_is_judged_by_its_first_tokens() -> None:
    world, traffic = heap(False, None)
    assert most(world, traffic, 120) > 1


@pytest.mark.parametrize("shared", [False, True])
def test_a_deadline_that_one_engine_would_miss_orders_replicas(shared: bool) -> None:
    world, traffic = heap(shared, 300)
    assert most(world, traffic, 60) == 3
    assert "work with deadlines" in world.status["scaling"]["history"][0]["reason"]


def test_advisory_recommends_what_the_deadline_asks_for_and_changes_nothing() -> None:
    world, traffic = heap(False, 300)
    world.edit(scaling={**SCALING, "mode": "Advisory"})
    assert most(world, traffic, 60) == 1
    assert world.status["scaling"]["recommendedReplicas"] == 3


def test_a_fleet_that_nobody_scales_still_says_what_its_deadline_asks_for() -> None:
    world, traffic = heap(False, 300)
    world.edit(scaling={"mode": "Off"}, replicas=1)
    for _ in range(60):
        traffic.second()
    assert len(world.live()) == 1
    assert world.status["slo"]["deadline"]["neededReplicas"] > 1


def test_larger_batches_serve_work_that_waits_where_it_is_alone() -> None:
    world, traffic = heap(False, 3600, 400)
    world.edit(tuning=TUNING)
    before = world.status["tuning"]["effective"]["maxNumSeqs"]
    for _ in range(60):
        traffic.second()
    assert world.status["tuning"]["effective"]["maxNumSeqs"] > before
    assert desired(world) == 1


def test_a_rollout_forgets_no_age() -> None:
    world, traffic = heap(False, 600)
    for _ in range(60):
        traffic.second()
    assert world.memory is not None
    before = world.memory.control.demand.backlog
    world.edit(template={"metadata": {"labels": {"team": "blue"}}})
    traffic.second()
    assert world.memory is not None
    assert world.memory.control.demand.backlog.marks[: len(before.marks)] == before.marks
    assert world.memory.arrived.came >= 200


def test_the_replicas_go_when_the_work_is_done() -> None:
    world, traffic = heap(False, 300)
    most(world, traffic, 60)
    for _ in range(400):
        traffic.second()
    assert desired(world) == 1
    assert traffic.cut == 0


def test_engines_are_told_the_deadline_and_pods_stay() -> None:
    world, traffic = heap(False, 3600, 0)
    (engine,) = world.engines.values()
    assert engine.effective.batch_deadline_ms == 3_600_000
    pods = dict(world.pods)
    world.edit(slo=objective(False, 600))
    traffic.second()
    assert engine.effective.batch_deadline_ms == 600_000
    assert world.pods == pods


def test_a_new_operator_knows_how_old_the_work_is() -> None:
    world, traffic = heap(False, 600)
    for _ in range(100):
        traffic.second()
    kept = world.status["demand"]["deferredByAge"]
    assert len(kept) == 20
    assert kept[-2:] == [0, 0], "what waits came more than two twentieths ago"
    before = world.memory
    assert before is not None
    means = [round(mean) for mean in before.arrived.lengths.means]
    assert [world.status["demand"][f"deferred{name}Tokens"] for name in ("Input", "Output")] == pytest.approx(
        means, rel=0.1
    )
    world.memory = None
    world.samples = {name: [] for name in world.samples}
    for _ in range(12):
        traffic.second()
    assert world.memory is not None
    assert world.memory.arrived.lengths.means == pytest.approx(means, rel=0.1)
    old, new = (one.control.demand.backlog for one in (before, world.memory))
    oldest = next(at_s for at_s, came in new.marks if came > 0)
    assert oldest == pytest.approx(old.marks[0][0], abs=60), (
        "to a twentieth of the deadline, and a minute's age of the status"
    )


def test_first_tokens_of_work_with_a_deadline_are_shown_and_not_judged() -> None:
    world, traffic = heap(True, 3600)
    for _ in range(60):
        traffic.second()
    batch = next(one for one in world.status["slo"]["classes"] if one["workloadClass"] == "batch")
    assert batch["ttftObservedMilliseconds"] > 10_000
    assert "ttftTargetMilliseconds" not in batch
    assert "attainmentPercent" not in batch
    assert world.condition("SLOMet")["status"] == "True"


def test_status_says_how_much_waits_when_it_is_done_and_what_the_deadline_asks_for() -> None:
    world, traffic = heap(True, 3600)
    for _ in range(60):
        traffic.second()
    found = world.status["slo"]["deadline"]
    assert (found["seconds"], found["neededReplicas"], found["lateCount"]) == (3600, 1, 0)
    assert found["waitingRequests"] == pytest.approx(130, rel=0.3)
    assert found["doneInSeconds"] == pytest.approx(110, rel=0.3)
    assert found["doneInSeconds"] + found["spareSeconds"] == pytest.approx(3600, rel=0.1)
    (engine,) = world.engines.values()
    predicted_s = found["doneInSeconds"]
    while engine.finished < engine.received:
        traffic.second()
        predicted_s -= 1
    assert predicted_s == pytest.approx(0, abs=40), "it is done about when it was said"
    for _ in range(10):
        traffic.second()
    assert world.status["slo"]["deadline"]["waitingRequests"] == 0


def test_work_that_will_be_late_is_a_symptom_with_its_cure_before_it_is() -> None:
    world, traffic = heap(False, 90, 400)
    for _ in range(45):
        traffic.second()
    found = world.status["slo"]["deadline"]
    assert found["spareSeconds"] < 0
    assert found["lateCount"] == 0
    symptom = next(one for one in world.status["symptoms"] if one["name"] == "DeadlineMissed")
    assert "batch requests are done in" in symptom["message"]
    assert "after their deadline" in symptom["message"]
    assert "the deadline asks for" in symptom["cure"]


def test_work_that_ended_late_is_counted_and_misses_the_objective() -> None:
    world, traffic = heap(True, 60)
    for _ in range(110):
        traffic.second()
    found = world.status["slo"]["deadline"]
    assert found["finishedCount"] >= found["lateCount"] > 0
    met = world.condition("SLOMet")
    assert met["status"] == "False"
    assert "batch requests ended after their deadline of 60 s" in met["message"]


def test_a_fleet_without_a_deadline_says_nothing_of_one() -> None:
    world, traffic = heap(True, None)
    for _ in range(90):
        traffic.second()
    assert "deadline" not in world.status["slo"]
    assert not world.status.get("demand", {}).get("deferredByAge")
