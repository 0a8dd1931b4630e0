"""A spec that cannot be acted on: said in the conditions, and the fleet stays as it is."""

from fleet_world import World, spec

from headway_operator.core.observed import OwnedObject
from headway_operator.core.plan import IDLE_S, Emit


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


def test_pods_that_come_and_go_while_the_spec_is_refused_show():
    bad = {"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}}
    world = World(spec(replicas=2))
    world.run()
    world.edit(replicas=2, engine=bad)
    world.run()
    assert (world.condition("Ready")["reason"], world.condition("Accepted")["status"]) == ("Starting", "False")
    for _ in range(5):
        world.step(2)
    assert (world.condition("Ready")["status"], world.status["readyReplicas"]) == ("True", 2)
    world.pods.pop(next(iter(world.pods)))
    world.step(2)
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"], world.status["replicas"]) == ("False", "InvalidSpec", 1)
    assert ready["message"].startswith(
        "1 of 2 replicas are ready, and no pod is created while the spec is refused: spec.engine"
    )
    world.edit(replicas=2, engine=spec()["engine"])
    world.settle()
    assert world.condition("Ready")["status"] == "True"


def test_limits_outside_the_tuning_bounds_are_refused():
    world = World(spec(tuning={"mode": "Auto", "bounds": {"maxNumSeqs": {"min": 8, "max": 16}}}))
    world.run()
    message = "spec.engine.limits.maxNumSeqs: must lie inside spec.tuning.bounds.maxNumSeqs (8 to 16), is 4"
    assert world.condition("Accepted")["message"] == message
