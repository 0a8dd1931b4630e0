"""Whole passes over a small world: create, repair, scale by hand, pause, refuse, delete."""

from dataclasses import replace

import pytest
from fleet_world import DEFAULTS, World, spec

from headway_operator.core import names
from headway_operator.core.decide import decide
from headway_operator.core.observed import ContainerState
from headway_operator.core.plan import (
    IDLE_S,
    Action,
    AddFinalizer,
    Apply,
    DeletePod,
    Emit,
    MarkDraining,
    RemoveFinalizer,
    StartDrain,
    WriteStatus,
)

CLASS_ENGINE = {"device": "cpu", "capacity": {"maxNumSeqs": 16, "maxNumBatchedTokens": 256}}


def settled(**overrides: object) -> World:
    world = World(spec(**overrides))
    world.settle()
    return world


def kinds(actions: tuple[Action, ...] | list[Action]) -> list[str]:
    return [action.manifest["kind"] if isinstance(action, Apply) else type(action).__name__ for action in actions]


def names_of(world: World) -> list[str]:
    return [type(action).__name__ for action in world.writes]


def test_first_pass_writes_finalizer_status_children_pods_in_this_order():
    plan = decide(World(spec(replicas=2)).observe())
    assert kinds(plan.actions) == [
        "AddFinalizer",
        "WriteStatus",
        "ServiceAccount",
        "Service",
        "Service",
        "PodDisruptionBudget",
        "Pod",
        "Pod",
    ]


def test_fleet_becomes_ready_and_then_says_nothing():
    world = settled(replicas=2)
    assert len(world.ready()) == 2
    assert world.condition("Ready")["reason"] == "AllReplicas"
    assert world.status["endpoint"] == "chat.default.svc:50051"
    before = len(world.writes)
    for _ in range(20):
        assert world.step(30).requeue_s == IDLE_S
    assert len(world.writes) == before


def test_two_field_spec_runs_one_replica():
    world = World(
        {
            "model": {"source": {"packed": {"path": "/m"}}},
            "engine": {"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 64}},
        }
    )
    world.settle()
    assert len(world.ready()) == 1
    assert world.condition("SLOMet")["reason"] == "NoObjective"


@pytest.mark.parametrize("kind", ["Service", "ServiceAccount", "PodDisruptionBudget"])
def test_deleted_child_is_made_again(kind: str):
    world = settled()
    del world.children[kind, "chat"]
    plan = world.run()
    assert kinds(plan.actions) == [kind]
    assert "is missing" in plan.actions[0].reason


def test_drifted_child_is_repaired_and_the_reason_names_the_field():
    world = settled()
    child = world.children["Service", "chat"]
    manifest = {**child.manifest, "spec": {**child.manifest["spec"], "type": "NodePort"}}
    world.children["Service", "chat"] = replace(child, manifest=manifest)
    plan = world.run()
    assert [action.reason for action in plan.actions] == ["Service chat differs in spec.type"]
    assert not world.run().actions


def test_deleted_pod_is_replaced_under_its_name():
    world = settled(replicas=2)
    name = world.live()[0]
    world._forget(name)
    world.settle()
    assert name in world.ready()


def test_another_class_changes_running_engines_and_no_pod():
    world = World(spec(slo={"workloadClass": "interactive"}, engine=CLASS_ENGINE))
    world.settle()
    pods, (engine,) = dict(world.pods), world.engines.values()
    assert (engine.effective.max_num_seqs, engine.effective.max_queued_requests) == (16, 16)
    world.edit(slo={"workloadClass": "realtime"})
    world.settle()
    assert world.pods == pods
    assert (engine.effective.max_num_seqs, engine.effective.max_queued_requests) == (4, 8)
    assert (engine.effective.profile, engine.effective.itl_target_ms) == ("low-tail", 50)
    assert world.manifest["status"]["tuning"]["effective"]["profile"] == "LowTail"


@pytest.mark.parametrize("mode", ["Off", "Advisory", "Auto"])
def test_another_target_for_the_first_token_changes_running_engines_and_no_pod(mode: str):
    def due(target: int) -> dict[str, object]:
        return {"workloadClass": "interactive", "ttft": {"targetMilliseconds": target}}

    world = World(spec(slo=due(1500), engine=CLASS_ENGINE, tuning={"mode": mode}))
    world.settle()
    pods, (engine,) = dict(world.pods), world.engines.values()
    assert (engine.effective.ttft_target_ms, engine.baseline.ttft_target_ms) == (1500, 1500), "no flag tells it"
    world.edit(slo=due(800))
    world.settle()
    assert world.pods == pods
    assert (engine.effective.ttft_target_ms, engine.baseline.ttft_target_ms) == (800, 800)
    assert world.manifest["status"]["tuning"]["effective"]["ttftTargetMilliseconds"] == 800


def test_unreadable_status_of_another_version_counts_as_none():
    world = World(spec())
    world.manifest["status"] = {"conditions": "new format"}
    world.settle()
    assert len(world.ready()) == 1


def test_conditions_of_other_managers_stay_theirs():
    world = settled()
    foreign = {
        "type": "example.com/Checked",
        "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "X",
        "message": "",
    }
    world.manifest["status"]["conditions"].append(foreign)
    assert not world.run().actions


def test_paused_fleet_is_observed_but_not_changed():
    world = settled(replicas=1)
    world.edit(replicas=3, paused=True)
    world.step()
    world._forget(world.live()[0])
    for _ in range(5):
        world.step()
    assert not world.pods
    assert world.condition("Paused")["status"] == "True"
    world.edit(paused=False)
    world.settle()
    assert len(world.ready()) == 3


def test_scale_down_drains_the_idle_pod_and_keeps_the_busy_one():
    world = settled(replicas=2)
    first, second = world.ready()
    world.engines[second].running = 3
    world.writes.clear()
    world.edit(replicas=1)
    world.settle()
    assert world.ready() == [second]
    taken = [type(action).__name__ for action in world.writes if getattr(action, "pod", "") == first]
    assert taken == ["MarkDraining", "StartDrain", "DeletePod"]


def test_status_is_written_before_a_pod_is_drained():
    world = settled(replicas=2)
    world.edit(replicas=1)
    plan = world.run()
    order = kinds(plan.actions)
    assert order.index("WriteStatus") < order.index("MarkDraining")
    assert world.status["scaling"]["desiredReplicas"] == 1


def test_every_change_of_the_count_is_an_event_and_a_line_of_history():
    world = settled(replicas=1)
    for count in (2, 3, 1):
        world.edit(replicas=count)
        world.settle(passes=200)
    told = [
        action.event_reason for action in world.writes if isinstance(action, Emit) and "Scaled" in action.event_reason
    ]
    assert told == ["ScaledUp", "ScaledUp", "ScaledDown"]
    history = [(line["from"], line["to"]) for line in world.status["scaling"]["history"]]
    assert history == [(3, 1), (2, 3), (1, 2)]


def test_history_holds_ten_changes():
    world = settled(replicas=1)
    for count in range(2, 15):
        world.edit(replicas=count)
        world.run()
    assert len(world.status["scaling"]["history"]) == 10


def test_image_change_rolls_the_fleet_without_a_gap():
    world = settled(replicas=2)
    old = set(world.pods)
    world.edit(engine={**spec()["engine"], "image": "engine:2"})
    for _ in range(60):
        world.step()
        assert len(world.ready()) >= 2
    assert len(world.ready()) == 2
    assert not old & set(world.pods)
    assert world.condition("Ready")["status"] == "True"


def test_one_gpu_cluster_completes_a_rollout():
    world = World(spec(), gpus=1)
    world.settle()
    old = world.live()
    world.edit(engine={**spec()["engine"], "image": "engine:2"})
    for _ in range(60):
        world.step()
    assert world.ready() != old
    assert len(world.ready()) == 1


def test_broken_new_revision_leaves_the_old_one_serving():
    world = settled(replicas=2)
    old = world.ready()
    world.boot_s = 10_000
    world.edit(engine={**spec()["engine"], "image": "broken:1"})
    for _ in range(60):
        world.step()
    assert world.ready() == old
    assert world.condition("Ready")["reason"] == "RollingOut"


def test_missing_gpu_is_a_condition_with_a_cure_and_does_not_stop_scale_down():
    world = World(spec(replicas=3), gpus=1)
    for _ in range(10):
        world.step()
    assert world.condition("Ready")["reason"] == "InsufficientGPUs"
    assert "add a GPU node" in world.condition("ScalingLimited")["message"]
    world.edit(replicas=1)
    world.settle()
    assert len(world.live()) == 1
    assert world.condition("ScalingLimited")["status"] == "False"


def test_model_that_cannot_be_loaded_is_a_condition_and_one_event():
    world = World(spec(), boot_s=10_000)
    world.step()
    pod = next(iter(world.pods.values()))
    text = "/models/smol.gguf: no such file"
    pod.view = replace(pod.view, container=ContainerState(False, 1, "CrashLoopBackOff", "", "Error", text, 3))
    for _ in range(5):
        world.step()
    assert text in world.condition("ModelAvailable")["message"]
    assert world.condition("ModelAvailable")["reason"] == "ModelUnusable"
    told = [action for action in world.writes if isinstance(action, Emit)]
    assert [(one.type, one.event_reason) for one in told] == [("Warning", "ModelUnusable")]


def test_refusal_of_the_api_server_is_a_condition():
    world = World(spec())
    world.refused = "exceeded quota: gpus"
    decided = decide(replace(world.observe(), pods=()))
    status = next(action.status for action in decided.actions if isinstance(action, WriteStatus))
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "PodRefused"
    assert "exceeded quota: gpus" in ready["message"]


def test_ready_condition_follows_the_current_generation():
    world = settled(replicas=1)
    world.edit(engine={**spec()["engine"], "image": "engine:2"})
    world.run()
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Ready")["observedGeneration"] == 2


def test_deletion_drains_every_stream_before_the_object_goes():
    world = settled(replicas=2)
    busy = world.ready()[0]
    world.engines[busy].running = 2
    world.delete()
    for _ in range(30):
        world.step()
    assert world.live() == []
    assert list(world.pods) == [busy]
    assert world.condition("Ready")["reason"] == "Deleting"
    world.engines[busy].running = 0
    for _ in range(5):
        world.step()
    assert world.gone


def test_deletion_of_a_fleet_whose_spec_is_bad_still_ends():
    world = settled(replicas=1)
    world.edit(engine="nonsense")
    world.delete()
    for _ in range(30):
        if world.gone:
            break
        world.step()
    assert world.gone


def test_deletion_does_not_wait_for_pods_of_a_node_that_is_gone():
    world = settled(replicas=2)
    lost = world.pods[world.ready()[0]]
    lost.view = replace(lost.view, deleting=True, ready=False, due=world.now)  # no kubelet ever lets it go
    world.delete()
    while not world.gone:
        world.step()
        assert world.now_s < 100
    assert list(world.pods.values()) == [lost]
    assert "1 on nodes that do not answer" in world.writes[-1].reason


def test_deletion_without_our_finalizer_is_not_our_business():
    world = World(spec())
    world.delete()
    assert decide(world.observe()).actions == ()


def test_deletion_never_adds_pods_or_children():
    world = settled(replicas=2)
    world.delete()
    before = len(world.writes)
    for _ in range(10):
        if not world.gone:
            world.step()
    later = world.writes[before:]
    assert not any(isinstance(action, Apply | AddFinalizer) for action in later)
    assert isinstance(later[-1], RemoveFinalizer)


def test_drain_deadline_bounds_the_wait():
    world = settled(replicas=2)
    victim = world.ready()[1]
    for name in world.ready():
        world.engines[name].running = 1
    world.edit(replicas=1)
    for _ in range(80):
        world.step()
    deletes = [action for action in world.writes if isinstance(action, DeletePod)]
    assert [action.pod for action in deletes] == [victim]
    assert "drain timeout of 60 s passed, 1 streams are left" in deletes[0].reason


def test_new_operator_goes_on_with_a_drain_that_another_began():
    world = settled(replicas=2)
    world.edit(replicas=1)
    plan = decide(world.observe())
    for action in plan.actions:
        world.apply(action)
        if isinstance(action, MarkDraining):
            break
    world.settle()
    assert names_of(world).count("MarkDraining") == 1
    assert isinstance(world.writes[-1], WriteStatus | DeletePod | StartDrain)
    assert len(world.ready()) == 1


def test_new_pods_take_the_operators_image_and_the_specs_wins():
    pod = next(iter(settled().pods.values()))
    assert pod.manifest["spec"]["containers"][0]["image"] == DEFAULTS.engine_image
    pod = next(iter(settled(engine={**spec()["engine"], "image": "mine:3"}).pods.values()))
    assert pod.manifest["spec"]["containers"][0]["image"] == "mine:3"


def test_operator_upgrade_rolls_nothing():
    world = settled()
    observed = replace(world.observe(), defaults=replace(DEFAULTS, engine_image="engine:9"))
    assert decide(observed).actions == ()


def test_selector_of_the_scale_subresource_finds_the_pods():
    world = settled()
    label, value = world.status["selector"].split("=")
    assert all(pod.view.labels[label] == value for pod in world.pods.values())
    assert label == names.LABEL_FLEET
