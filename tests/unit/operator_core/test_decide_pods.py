"""Single pods that are not as they were left: without their label, or ready and still silent."""

from dataclasses import replace

from fleet_world import World, spec

from headway_operator.core import names
from headway_operator.core.decide import decide
from headway_operator.core.intake import lost_pods, start_times
from headway_operator.core.plan import Apply, Emit, MarkServing, SetLimits
from headway_operator.shell.kube import text_at


def test_a_pod_without_its_serving_label_is_put_back_into_the_endpoints():
    world = World(spec(replicas=2))
    world.settle()
    name = world.live()[0]
    pod = world.pods[name]
    pod.view = replace(pod.view, labels={**pod.view.labels, names.LABEL_SERVING: "no"})
    assert [action for action in world.run().actions if isinstance(action, MarkServing)] == [
        MarkServing(name, pod.view.uid, f"pod {name} lost the label {names.LABEL_SERVING}=true")
    ]
    assert not world.run().actions
    world.edit(paused=True)
    pod.view = replace(pod.view, labels={})
    assert not any(isinstance(action, MarkServing) for action in world.run().actions), "paused: nothing is changed"


def test_a_name_that_a_pod_outside_of_the_fleet_has_is_not_asked_for_again():
    world = World(spec(replicas=2))
    world.settle()
    first, second = sorted(world.live())
    del world.pods[first]  # somebody took its label: the fleet does not see it any more
    plan = decide(replace(world.observe(), taken=frozenset({first})))
    [made] = [action for action in plan.actions if isinstance(action, Apply)]
    assert text_at(made.manifest, "metadata", "name") == f"{first.removesuffix('-0')}-2"
    assert second.endswith("-1")


def test_limits_that_changed_while_a_pod_started_are_no_warning_when_it_becomes_ready():
    world = World(spec(replicas=1), boot_s=15.0)
    world.settle()
    world.edit(replicas=2, engine={**world.manifest["spec"]["engine"], "limits": {"maxNumSeqs": 3}})
    emitted: list[str] = []
    for _ in range(30):
        emitted += [action.event_reason for action in world.step().actions if isinstance(action, Emit)]
    assert world.condition("TuningApplied")["status"] == "True"
    assert "Applying" not in emitted


def test_a_pod_that_was_lost_and_is_back_has_not_taken_so_long_to_start():
    world = World(spec(replicas=1))
    world.settle()
    [name] = world.live()
    pod = world.pods[name]
    assert start_times([pod.view], lost_pods(world.observe())) == (4.0,)
    pod.view = replace(pod.view, ready=False, ready_since=None, lost_since=world.now)
    world.run()
    world.now_s += 1000
    pod.view = replace(pod.view, ready=True, ready_since=world.now, lost_since=None)
    for _ in range(3):
        world.run()
    assert start_times([pod.view], lost_pods(world.observe())) == ()


def test_an_engine_that_has_just_become_ready_is_no_lost_one_until_it_stays_silent():
    world = World(spec())
    world.step(0)
    while not world.ready():
        world.tick(1)
    [engine] = world.engines.values()
    engine.silent = True
    world.samples.clear()
    told = [action for action in world.run().actions if isinstance(action, Emit)]
    assert world.condition("MetricsAvailable")["status"] == "Unknown"
    assert not any(emit.type == "Warning" for emit in told)
    world.tick(10)
    told = [action for action in world.run().actions if isinstance(action, Emit)]
    assert world.condition("MetricsAvailable")["reason"] == "MetricsLost"
    assert "MetricsLost" in [emit.event_reason for emit in told if emit.type == "Warning"]


def test_a_pod_that_was_refused_a_moment_ago_is_not_asked_for_yet_and_pods_that_run_are_cared_for():
    world = World(spec(replicas=1))
    world.settle()
    world.edit(replicas=2, engine={**world.manifest["spec"]["engine"], "limits": {"maxNumSeqs": 3}})
    refused = replace(world.observe(), refused="exceeded quota: pods=1", hold_creation=True)
    held = decide(refused).actions
    assert [action.manifest["kind"] for action in held if isinstance(action, Apply)] == ["PodDisruptionBudget"]
    assert any(isinstance(action, SetLimits) for action in held)
    again = decide(replace(refused, hold_creation=False)).actions
    assert "Pod" in [action.manifest["kind"] for action in again if isinstance(action, Apply)]
