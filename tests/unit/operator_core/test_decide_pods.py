"""Single pods that are not as they were left: without their label, or ready and still silent."""

from dataclasses import replace

from fleet_world import World, spec

from headway_operator.core import names
from headway_operator.core.plan import Emit, MarkServing


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
