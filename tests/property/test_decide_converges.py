"""Any sequence of edits, faults and traffic: the plan is a function of what is observed, and it always arrives.

The world checks the step rules itself (no serving pod deleted undrained, no stream cut, no foreign object touched, no
finalizer before the pods are gone, limits valid). Here random lives are led through it.
"""

from dataclasses import replace

from fleet_world import World, spec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headway_operator.core import pods
from headway_operator.core.decide import decide
from headway_operator.core.names import LABEL_SERVING
from headway_operator.core.observed import OwnedObject
from headway_operator.core.plan import Apply

MAX_REPLICAS = 4
NEVER = {"name": "never", "cron": "0 0 30 2 *", "durationSeconds": 60}
FOREIGN = OwnedObject("Service", "chat", "u-9", controlled=False, manifest={"kind": "Service", "metadata": {}})

IMAGES = st.sampled_from(["engine:1", "engine:2", "engine:3"])
LIMITS = st.integers(1, 16)
EVENTS = st.one_of(
    st.tuples(st.just("replicas"), st.integers(0, MAX_REPLICAS)),
    st.tuples(st.just("image"), IMAGES),
    st.tuples(st.just("limits"), LIMITS),
    st.tuples(st.just("auto"), st.booleans()),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("refuse"), st.booleans()),
    st.tuples(st.just("restart"), st.just(True)),
    st.tuples(st.just("traffic"), st.integers(0, 12)),
    st.tuples(st.just("silence"), st.booleans()),
    st.tuples(st.just("lose pod"), st.integers(0, 3)),
    st.tuples(st.just("fail pod"), st.integers(0, 3)),
    st.tuples(st.just("lose node"), st.integers(0, 3)),
    st.tuples(st.just("lose child"), st.integers(0, 3)),
    st.tuples(st.just("lose label"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(1, 40)),
)
LIVES = st.lists(EVENTS, max_size=8)
ROLLOUTS = st.sampled_from([{"maxSurge": 1, "maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 1}])
GPUS = st.sampled_from([None, None, 1, 2])
LIGHT = settings(max_examples=25)


def happen(world: World, event: tuple[str, int | str | bool]) -> None:  # noqa: C901, PLR0912  one arm per event
    kind, value = event
    engine = world.manifest["spec"]["engine"]
    match kind:
        case "replicas" if world.manifest["spec"].get("scaling") is None:
            world.edit(replicas=value)
        case "image":
            world.edit(engine={**engine, "image": value})
        case "limits":
            world.edit(engine={**engine, "limits": {"maxNumSeqs": value, "maxNumBatchedTokens": 64}})
        case "auto":
            switch(world, bool(value))
        case "pause":
            world.edit(paused=value)
        case "refuse":
            world.edit(schedules=[NEVER] if value else [])
        case "restart":
            world.memory = None
            world.samples.clear()
        case "traffic" | "silence":
            for one in world.engines.values():
                if kind == "silence":
                    one.silent = bool(value)
                elif not one.draining:
                    one.running, one.waiting = min(int(value), 4), max(0, int(value) - 4)
                    one.received += int(value)
        case "wait":
            for _ in range(int(value)):
                step(world)
        case _:
            disturb(world, kind, int(value))


def switch(world: World, on: bool) -> None:
    rest = {key: value for key, value in world.manifest["spec"].items() if key not in ("replicas", "scaling", "tuning")}
    if on:
        down = {"stabilizationWindowSeconds": 10, "periodSeconds": 5}
        rest["scaling"] = {"mode": "Auto", "minReplicas": 1, "maxReplicas": MAX_REPLICAS, "scaleDown": down}
        rest["tuning"] = {"mode": "Auto", "cooldownSeconds": 5}
    world.manifest["spec"] = rest
    world.edit()


def disturb(world: World, kind: str, index: int) -> None:
    names = sorted(world.pods)
    if kind == "lose child" and len(world.children) > index:
        del world.children[sorted(world.children)[index]]
    elif kind == "lose label" and len(names) > index:
        pod = world.pods[names[index]]
        pod.view = replace(pod.view, labels={**pod.view.labels, LABEL_SERVING: ""})
    elif kind == "lose pod" and len(names) > index:
        world._forget(names[index])
    elif kind == "fail pod" and len(names) > index and not world.pods[names[index]].view.deleting:
        pod = world.pods[names[index]]
        world.engines.pop(names[index], None)
        pod.view = replace(pod.view, phase="Failed", ready=False)
    elif kind == "lose node" and len(names) > index and not world.pods[names[index]].view.deleting:
        pod = world.pods[names[index]]
        world.engines.pop(names[index], None)
        # Its GPU is no other's meanwhile, and no kubelet lets the pod go.
        pod.view = replace(pod.view, deleting=True, due=world.now, ready=False, node="")


def step(world: World, seconds: float = 1.0) -> None:
    world.step(seconds)
    live = sum(1 for pod in world.pods.values() if pods.live(pod.view))
    assert live <= MAX_REPLICAS + 1, "more pods than the maximum and one for a rollout"


def lead(world: World, events: list[tuple[str, int | str | bool]]) -> None:
    for event in events:
        happen(world, event)
        step(world)
        step(world)


def calm(world: World) -> None:
    """Traffic ends, every engine answers, the fleet is not paused."""
    for event in (("silence", False), ("traffic", 0), ("pause", False)):
        happen(world, event)


@LIGHT
@given(events=LIVES, rollout=ROLLOUTS, gpus=GPUS)
def test_every_life_ends_in_the_desired_state_and_then_in_silence(events: list, rollout: dict, gpus: int | None):
    world = World(spec(rollout=rollout), boot_s=2, gpus=gpus)
    step(world)
    lead(world, events)
    calm(world)
    for _ in range(90):
        calm_engines(world)
        step(world, 3.0)
    before = len(world.writes)
    for _ in range(20):
        step(world)
    assert world.writes[before:] == []
    wanted = world.status["scaling"]["desiredReplicas"]
    assert len(world.live()) == wanted
    assert len(world.ready()) == (wanted if gpus is None else min(wanted, gpus))
    assert len(world.children) == 4


def calm_engines(world: World) -> None:
    for engine in world.engines.values():
        engine.running = engine.waiting = 0
        engine.silent = False


@LIGHT
@given(events=LIVES, rollout=ROLLOUTS)
@example(
    # A pod ends while its last sample still shows streams: no drain is started on a dead engine.
    events=[("replicas", 1), ("image", "engine:1"), ("traffic", 1), ("fail pod", 1)],
    rollout={"maxSurge": 1, "maxUnavailable": 0},
)
def test_deletion_at_any_moment_ends_with_nothing_left(events: list, rollout: dict):
    world = World(spec(rollout=rollout), boot_s=2)
    step(world)
    lead(world, events)
    world.delete()
    for _ in range(150):
        if world.gone:
            break
        step(world)
    assert world.gone


@LIGHT
@given(events=LIVES)
def test_equal_observations_give_equal_plans(events: list):
    world = World(spec(), boot_s=2)
    lead(world, events)
    assert decide(world.observe()) == decide(world.observe())


@LIGHT
@given(events=LIVES, after=st.integers(0, 30))
def test_crash_after_any_write_loses_nothing(events: list, after: int):
    """The plan is cut after `after` writes in total, and the next pass starts from fresh reads."""
    world = World(spec(replicas=2), boot_s=2)
    left = after
    for event in [*events, ("wait", 1)]:
        happen(world, event)
        world.tick(1)
        for action in decide(world.observe()).actions:
            if left == 0:
                left = 7
                break
            left -= 1
            world.apply(action)
    calm(world)
    happen(world, ("refuse", False))
    for _ in range(90):
        calm_engines(world)
        step(world, 3.0)
    assert len(world.ready()) == world.status["scaling"]["desiredReplicas"]
    assert not world.run().actions


@LIGHT
@given(events=LIVES)
def test_foreign_object_is_never_touched(events: list):
    world = World(spec(), boot_s=2)
    world.children["Service", "chat"] = FOREIGN
    lead(world, [event for event in events if event[0] != "lose child"])
    assert world.children["Service", "chat"] is FOREIGN
    assert not any(isinstance(action, Apply) for action in world.writes)
