"""A spec that cannot be acted on: said in the conditions, and the fleet runs with the one that was accepted last."""

from dataclasses import replace
from typing import Any

import pytest
from fleet_world import World, spec

from headway_operator.core.observed import OwnedObject
from headway_operator.core.plan import IDLE_S, Emit, MarkDraining

BAD = {"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}}


def warnings(world: World) -> list[str]:
    return [write.reason for write in world.writes if isinstance(write, Emit) and write.type == "Warning"]


def refused(**edits: Any) -> World:
    """A fleet of two whose next spec is refused, and an operator that has just begun."""
    world = World(spec(replicas=2))
    world.settle()
    world.edit(**{"replicas": 1, "engine": BAD, **edits})
    world.settle()
    world.memory = None
    return world


def test_foreign_object_of_a_childs_name_is_never_touched():
    world = World(spec())
    foreign = OwnedObject("Service", "chat", "u-9", controlled=False, manifest={"kind": "Service"})
    world.children["Service", "chat"] = foreign
    world.settle()
    assert world.children["Service", "chat"] is foreign
    assert world.condition("Accepted")["reason"] == "NameConflict"
    assert not world.pods


def test_bad_spec_leaves_the_fleet_and_is_told_once():
    world = World(spec(replicas=2))
    world.settle()
    pods = dict(world.pods)
    world.edit(replicas=1, engine={**spec()["engine"], "limits": {"maxNumBatchedTokens": 2}})
    before = len(world.writes)
    for _ in range(10):
        assert world.step(2).requeue_s == IDLE_S
    assert [type(write).__name__ for write in world.writes[before:]] == ["WriteStatus", "Emit"]
    assert world.condition("Accepted")["message"].startswith("spec.engine.limits.maxNumBatchedTokens: must be at least")
    assert world.pods == pods
    world.edit(replicas=1, engine=spec()["engine"])
    world.settle()
    assert world.condition("Accepted")["status"] == "True"
    assert len(world.ready()) == 1


def test_spec_that_does_not_parse_is_refused_with_the_field():
    world = World(spec(engine={"capacity": {"maxNumSeqs": 0, "maxNumBatchedTokens": 5}}))
    world.run()
    assert world.condition("Accepted")["message"].startswith("spec.engine.capacity.maxNumSeqs:")


def test_a_fleet_that_never_ran_shows_in_ready_why_it_is_refused_and_one_that_runs_stays_ready():
    bad = {"capacity": {"maxNumSeqs": 0, "maxNumBatchedTokens": 5}}
    world = World(spec(engine=bad))
    world.run()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "InvalidSpec")
    assert [write for write in world.writes if isinstance(write, Emit)][1:] == [], "one sentence about it"
    world.edit(engine={"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}})
    world.run()
    assert "is 4" in world.condition("Ready")["message"], "it follows the spec"
    world.edit(engine=spec()["engine"])
    world.settle()
    world.edit(engine=bad)
    world.run()
    assert (world.condition("Ready")["status"], world.condition("Accepted")["status"]) == ("True", "False")


def test_while_a_spec_is_refused_the_one_before_is_served_in_full():
    world = refused()
    world.pods.pop(world.ready()[0])
    world.children.clear()
    world.step()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "Starting")
    world.settle()
    assert len(world.ready()) == 2, "the count of the spec before"
    assert len(world.children) == 4
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("True", "EarlierSpec")


def test_conditions_speak_of_the_spec_that_runs_and_accepted_of_the_new_one():
    world = refused()
    accepted, ready = world.condition("Accepted"), world.condition("Ready")
    assert accepted["message"].endswith("; the fleet runs with the spec of generation 1 meanwhile")
    assert (accepted["observedGeneration"], ready["observedGeneration"]) == (2, 1)
    assert world.status["observedGeneration"] == 2
    assert world.status["lastAccepted"]["generation"] == 1
    world.edit(replicas=1, engine=spec()["engine"])
    world.settle()
    assert {one["observedGeneration"] for one in world.status["conditions"]} == {3}
    assert world.status["lastAccepted"] == {"generation": 3, "spec": world.manifest["spec"]}
    assert len(world.ready()) == 1


def test_a_rollout_goes_on_while_a_later_spec_is_refused():
    world = World(spec(replicas=2))
    world.settle()
    old = set(world.pods)
    world.edit(engine={**spec()["engine"], "maxModelLen": 128})
    world.step()
    world.edit(engine=BAD)
    world.settle()
    assert len(world.ready()) == 2
    assert not old & set(world.pods)


def test_paused_counts_in_a_refused_spec_too():
    world = refused(paused=True)
    world.pods.pop(world.ready()[0])
    for _ in range(5):
        world.step()
    assert len(world.pods) == 1
    assert world.condition("Paused")["status"] == "True"
    world.edit(paused=False)
    world.settle()
    assert len(world.ready()) == 2


def test_deletion_of_a_refused_fleet_drains_by_the_rules_that_it_ran_with():
    world = refused(drain={"timeoutSeconds": 1, "endpointRemovalDelaySeconds": 0})
    for engine in world.engines.values():
        engine.running = 1
    world.delete()
    for _ in range(50):
        world.step()
    assert len(world.pods) == 2, "60 s and not 1"
    for _ in range(20):
        world.step()
    assert world.gone


def test_one_refused_spec_is_told_once_and_the_next_one_anew():
    world = refused()
    world.pods.pop(world.ready()[0])
    world.settle()
    assert len(warnings(world)) == 1
    world.edit(engine={"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 5}})
    world.settle()
    first, second = warnings(world)
    assert "is 4" in first
    assert "is 5" in second


def test_a_spec_that_this_version_does_not_take_any_more_leaves_the_fleet_and_says_so():
    world = refused()
    world.status["lastAccepted"]["spec"]["engine"] = BAD
    world.pods.pop(world.ready()[0])
    world.step()
    assert len(world.pods) == 1
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "InvalidSpec")
    assert "meanwhile" not in world.condition("Accepted")["message"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_fleet_that_runs_goes_on_beside_a_foreign_object_of_a_childs_name(edited: bool):
    world = World(spec(replicas=2))
    world.settle()
    foreign = replace(world.children["Service", "chat"], controlled=False, manifest={"kind": "Service"})
    world.children["Service", "chat"] = foreign
    if edited:
        world.edit(replicas=3)
    world.pods.pop(world.ready()[0])
    world.settle()
    assert world.children["Service", "chat"] is foreign
    assert world.condition("Accepted")["reason"] == "NameConflict"
    assert len(world.ready()) == (3 if edited else 2)
    assert not any(isinstance(write, MarkDraining) for write in world.writes)


def test_limits_outside_the_tuning_bounds_are_refused():
    world = World(spec(tuning={"mode": "Auto", "bounds": {"maxNumSeqs": {"min": 8, "max": 16}}}))
    world.run()
    message = "spec.engine.limits.maxNumSeqs: must lie inside spec.tuning.bounds.maxNumSeqs (8 to 16), is 4"
    assert world.condition("Accepted")["message"] == message
