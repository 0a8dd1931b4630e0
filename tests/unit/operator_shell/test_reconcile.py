"""A pass: what it reads, what it writes, how it fails."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import simple_decide
from fake_kube import CrashError, FakeKube, Request, no_fault
from shell_harness import KEY, FakeControl, fleet_manifest
from shell_harness import make_reconciler as new_process

from headway_operator.core import names
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import Observed
from headway_operator.core.plan import Apply, Json, LimitsPatch, Manifest, Plan, SetLimits, WriteStatus
from headway_operator.shell.kube import Failure, KubeError, Ref
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.reconcile import Outcome, Reconciler

MakeReconciler = Callable[..., Reconciler]

pytestmark = pytest.mark.usefixtures("fleet")


async def settle(reconcile: Reconciler, passes: int = 6) -> None:
    for _ in range(passes):
        await reconcile(KEY)


def end_state(kube: FakeKube) -> dict[str, Any]:
    """All objects but Events, without what differs from run to run."""
    state = {str(ref): copy.deepcopy(manifest) for ref, manifest in kube.objects.items() if ref.kind != "Event"}
    for manifest in state.values():
        for volatile in ("uid", "resourceVersion", "creationTimestamp"):
            manifest["metadata"].pop(volatile, None)
    return state


async def test_one_fleet_gets_its_children_pods_and_status(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    await settle(make_reconciler())
    assert [str(ref) for ref in kube.objects if ref.kind != "Event"] == [
        "LLMDeployment apps/demo",
        "ServiceAccount apps/demo",
        "Service apps/demo",
        "Service apps/demo-engines",
        "PodDisruptionBudget apps/demo",
        "Pod apps/demo-abc123-0",
        "Pod apps/demo-abc123-1",
    ]
    assert kube.objects[KEY.ref]["status"]["replicas"] == 2
    assert kube.objects[KEY.ref]["metadata"]["finalizers"] == [names.FINALIZER]


async def test_a_settled_fleet_is_read_but_never_written(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    reconcile = make_reconciler()
    await settle(reconcile)
    kube.requests.clear()
    await settle(reconcile, passes=20)
    assert kube.writes == []
    assert len(kube.requests) == 20 * 6  # the fleet, its pods, four children


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_crash_at_any_write_leads_to_the_same_end_state(side: str) -> None:
    async def run(crash_at: int | None) -> tuple[dict[str, Any], int]:
        kube = FakeKube()
        kube.put(fleet_manifest())

        def crash(request: Request) -> None:
            if request.is_write and request.number == crash_at:
                raise CrashError

        setattr(kube, side, crash)
        for _ in range(8):
            try:
                await new_process(kube, FakeControl())(KEY)
            except CrashError:
                continue
        kube.remove(KEY.ref)
        for _ in range(8):
            try:
                await new_process(kube, FakeControl())(KEY)
            except CrashError:
                continue
        return end_state(kube), len(kube.writes)

    undisturbed, writes = await run(None)
    assert undisturbed == {}
    assert writes >= 15
    for crash_at in range(writes):
        disturbed, _ = await run(crash_at)
        assert disturbed == undisturbed, f"crash {side} write {crash_at}"


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_crash_while_creating_leaves_no_surplus_and_no_gap(side: str) -> None:
    async def run(crash_at: int | None) -> tuple[dict[str, Any], int]:
        kube = FakeKube()
        kube.put(fleet_manifest())

        def crash(request: Request) -> None:
            if request.is_write and request.number == crash_at:
                raise CrashError

        setattr(kube, side, crash)
        for _ in range(8):
            try:
                await new_process(kube, FakeControl())(KEY)
            except CrashError:
                continue
        return end_state(kube), len(kube.writes)

    undisturbed, writes = await run(None)
    for crash_at in range(writes):
        assert (await run(crash_at))[0] == undisturbed, f"crash {side} write {crash_at}"


@pytest.mark.parametrize(
    ("failure", "status"), [(Failure.CONFLICT, 409), (Failure.RETRYABLE, 503), (Failure.PERMANENT, 403)]
)
async def test_a_failed_write_ends_the_pass_and_the_next_one_finishes(
    kube: FakeKube, make_reconciler: MakeReconciler, failure: Failure, status: int
) -> None:
    def refuse_second_write(request: Request) -> None:
        if request.is_write and request.number == 1:
            raise KubeError(failure, "refused", status)

    kube.before = refuse_second_write
    reconcile = make_reconciler()
    assert (await reconcile(KEY)).failure is failure
    assert [request.verb for request in kube.writes if request.kind != "Event"] == ["patch", "apply"]
    await settle(reconcile)
    assert len(kube.of_kind("Pod")) == simple_decide.REPLICAS


async def test_what_cannot_succeed_is_told_to_the_user_once(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    def quota(request: Request) -> None:
        if request.kind == "Pod" and request.is_write:
            raise KubeError(Failure.PERMANENT, "exceeded quota: pods=0", 403)

    kube.before = quota
    reconcile = make_reconciler()
    await settle(reconcile)
    events = [kube.objects[ref] for ref in kube.of_kind("Event")]
    assert [event["reason"] for event in events] == ["ReplicasCreated", "PodRefused"]
    assert "exceeded quota" in events[1]["note"]


async def test_a_refused_pod_is_observed_and_holds_up_only_the_creation_of_pods(kube: FakeKube) -> None:
    seen: list[Observed] = []

    def quota(request: Request) -> None:
        if request.kind == "Pod" and request.is_write:
            raise KubeError(Failure.PERMANENT, "exceeded quota: pods=0", 403)

    def decide(observed: Observed) -> Plan:
        seen.append(observed)
        return simple_decide.decide(observed)

    kube.before = quota
    reconcile = new_process(kube, FakeControl(), decide)
    first = await reconcile(KEY)
    assert first.failure is None
    assert first.requeue_s < 1, "the condition must not wait for a minute"
    assert kube.objects[KEY.ref]["status"]["replicas"] == 0, "the status comes after the pods in this plan"
    await reconcile(KEY)
    assert [(one.refused, one.hold_creation) for one in seen] == [("", False), ("exceeded quota: pods=0", True)]
    kube.before = no_fault
    await reconcile(KEY)
    await reconcile(KEY)
    assert seen[-1].refused == ""


async def test_a_pod_taken_out_of_the_fleet_by_its_label_is_left_alone_and_replaced(kube: FakeKube) -> None:
    def decide(observed: Observed) -> Plan:
        pods = [pod.name for pod in observed.pods]
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "engine"}]}}
        for name in names.free_names("demo", "abc123", [*observed.taken, *pods], 2 - len(pods)):
            metadata = {"name": name, "namespace": "apps", "labels": names.pod_labels("demo", "abc123")}
            owner: Json = [{"uid": "uid-demo", "controller": True}]
            manifest = {**manifest, "metadata": {**metadata, "ownerReferences": owner}}
            return Plan((Apply(manifest, "missing"),), 2.0)
        return Plan((), 30.0)

    reconcile = new_process(kube, FakeControl(), decide)
    await settle(reconcile, passes=3)
    quarantined = Ref("Pod", "apps", "demo-abc123-0")
    kube.edit(quarantined, lambda pod: pod["metadata"]["labels"].pop(names.LABEL_FLEET))
    before = copy.deepcopy(kube.objects[quarantined])
    outcome = await reconcile(KEY)
    assert outcome.failure is None
    assert outcome.requeue_s < 1, "a replica is missing: do not wait"
    await settle(reconcile, passes=2)
    assert [ref.name for ref in kube.of_kind("Pod")] == ["demo-abc123-0", "demo-abc123-1", "demo-abc123-2"]
    assert kube.objects[quarantined] == before


async def test_an_event_that_cannot_be_posted_does_not_end_the_pass(
    kube: FakeKube, make_reconciler: MakeReconciler
) -> None:
    def no_events(request: Request) -> None:
        if request.kind == "Event":
            raise KubeError(Failure.PERMANENT, "forbidden", 403)

    kube.before = no_events
    assert await make_reconciler()(KEY) == Outcome(30.0)


async def test_a_fleet_that_is_gone_leaves_no_metrics(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    metrics = Metrics()
    reconcile = make_reconciler(metrics=metrics)
    await settle(reconcile)
    assert b'headway_fleet_replicas{fleet="demo",namespace="apps"} 2.0' in metrics.expose()
    kube.remove(KEY.ref)
    await settle(reconcile, passes=3)
    assert (await reconcile(KEY)).gone
    assert b'fleet="demo"' not in metrics.expose()


async def test_deletion_drains_deletes_and_then_lets_go(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    reconcile = make_reconciler()
    await settle(reconcile)
    kube.requests.clear()
    kube.remove(KEY.ref)
    await settle(reconcile)
    assert [(request.verb, request.kind) for request in kube.writes] == [
        ("patch", "Pod"),
        ("patch", "Pod"),
        ("delete", "Pod"),
        ("delete", "Pod"),
        ("patch", "LLMDeployment"),
    ]
    assert end_state(kube) == {}


async def test_a_finalizer_of_others_survives(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    kube.edit(KEY.ref, lambda fleet: fleet["metadata"].update(finalizers=["example.com/backup"]))
    reconcile = make_reconciler()
    await settle(reconcile)
    assert kube.objects[KEY.ref]["metadata"]["finalizers"] == ["example.com/backup", names.FINALIZER]
    kube.remove(KEY.ref)
    await settle(reconcile)
    assert kube.objects[KEY.ref]["metadata"]["finalizers"] == ["example.com/backup"]


async def test_the_status_of_a_deleted_fleet_never_reaches_its_successor(
    kube: FakeKube, make_reconciler: MakeReconciler
) -> None:
    def decide_while_it_is_replaced(observed: Observed) -> Plan:
        kube.remove(KEY.ref)
        kube.put({**fleet_manifest(), "metadata": {"name": KEY.name, "namespace": KEY.namespace, "uid": "other"}})
        return Plan((WriteStatus({"replicas": 7}, "stale"),), 30.0)

    outcome = await make_reconciler(decide_while_it_is_replaced)(KEY)
    assert outcome.failure is Failure.CONFLICT
    assert "status" not in kube.objects[KEY.ref]


async def test_a_pass_hands_its_memory_to_the_next_one_until_the_fleet_is_gone(
    kube: FakeKube, make_reconciler: MakeReconciler
) -> None:
    seen: list[LoopMemory | None] = []

    def decide(observed: Observed) -> Plan:
        seen.append(observed.memory)
        if len(seen) == 3:
            return Plan((), 30.0)  # a plan without a memory keeps the one from before
        # What was seen stays seen, also when the write of this pass fails.
        return Plan((WriteStatus({"replicas": 1}, "x"),), 30.0, LoopMemory(revision=f"after pass {len(seen)}"))

    def refused(request: Request) -> None:
        if request.is_write and len(seen) == 2:
            raise KubeError(Failure.RETRYABLE, "no answer")

    kube.before = refused
    reconcile = make_reconciler(decide)
    outcomes = [await reconcile(KEY) for _ in range(4)]
    assert [outcome.failure for outcome in outcomes] == [None, Failure.RETRYABLE, None, None]
    assert [memory.revision if memory else None for memory in seen] == [
        None,
        "after pass 1",
        "after pass 2",
        "after pass 2",
    ]
    manifest = kube.objects[KEY.ref]
    kube.remove(KEY.ref)
    assert (await reconcile(KEY)).gone
    kube.put(manifest)
    await reconcile(KEY)
    assert seen[-1] is None


async def test_pods_of_a_foreign_owner_are_not_observed(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    labels: dict[str, Json] = {names.LABEL_FLEET: KEY.name}
    kube.put({"kind": "Pod", "metadata": {"name": "stray", "namespace": KEY.namespace, "labels": labels}})
    seen: list[Observed] = []

    def decide(observed: Observed) -> Plan:
        seen.append(observed)
        return Plan((), 30.0)

    await make_reconciler(decide)(KEY)
    assert seen[0].pods == ()


def autoscaler(name: str, target: str, kind: str = names.KIND) -> Manifest:
    target_ref = {"apiVersion": names.API_VERSION, "kind": kind, "name": target}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": KEY.namespace},
        "spec": {"scaleTargetRef": target_ref},
    }


@pytest.mark.parametrize(("mode", "seen"), [("Auto", ("mine",)), ("External", ()), ("Off", ())])
async def test_autoscalers_on_a_fleet_are_looked_for_where_their_writes_are_refused(
    kube: FakeKube, make_reconciler: MakeReconciler, mode: str, seen: tuple[str, ...]
) -> None:
    kube.edit(KEY.ref, lambda stored: stored["spec"].update(scaling={"mode": mode}))
    others = (autoscaler("other", "other-fleet"), autoscaler("namesake", KEY.name, "Deployment"))
    for manifest in (autoscaler("mine", KEY.name), *others):
        kube.put(manifest)
    found: list[Observed] = []

    def decide(observed: Observed) -> Plan:
        found.append(observed)
        return Plan((), 30.0)

    await make_reconciler(decide)(KEY)
    assert found[-1].autoscalers == seen
    assert any(request.kind == "HorizontalPodAutoscaler" for request in kube.requests) == (mode == "Auto")

    def forbidden(request: Request) -> None:
        if request.kind == "HorizontalPodAutoscaler":
            raise KubeError(Failure.PERMANENT, "forbidden", 403)

    kube.before = forbidden
    await make_reconciler(decide)(KEY)
    assert found[-1].autoscalers == (), "an operator without the right goes on without the word"


async def test_a_foreign_object_under_a_childs_name_is_seen_as_foreign(
    kube: FakeKube, make_reconciler: MakeReconciler
) -> None:
    kube.put({"kind": "Service", "metadata": {"name": KEY.name, "namespace": KEY.namespace}})
    seen: list[Observed] = []

    def decide(observed: Observed) -> Plan:
        seen.append(observed)
        return Plan((), 30.0)

    await make_reconciler(decide)(KEY)
    assert [(child.kind, child.name, child.controlled) for child in seen[0].children] == [("Service", "demo", False)]


async def test_a_bug_in_a_decision_is_reported_and_retried(kube: FakeKube, make_reconciler: MakeReconciler) -> None:
    def decide(observed: Observed) -> Plan:
        raise ZeroDivisionError("no samples")

    outcome = await make_reconciler(decide)(KEY)
    assert outcome.failure is Failure.PERMANENT
    assert "no samples" in kube.objects[kube.of_kind("Event")[0]]["note"]


async def test_a_silent_engine_holds_up_only_itself(
    kube: FakeKube, control: FakeControl, make_reconciler: MakeReconciler
) -> None:
    await settle(make_reconciler())
    control.silent.add("demo-abc123-0")

    def decide(observed: Observed) -> Plan:
        limits = LimitsPatch(max_num_seqs=4)
        actions = [SetLimits(pod.name, limits, 60, 1, "retune") for pod in observed.pods for _ in range(2)]
        return Plan((*actions, WriteStatus({"replicas": 2}, "after")), 30.0)

    outcome = await make_reconciler(decide)(KEY)
    assert control.told == [("limits", "demo-abc123-1")] * 2
    assert control.asked.count("demo-abc123-0") == 1, "a pass waits for one timeout of it"
    assert outcome == Outcome(2.0)  # no failure, but sooner than asked


async def test_a_manifest_without_a_kind_is_refused_before_it_is_sent(
    kube: FakeKube, make_reconciler: MakeReconciler
) -> None:
    def decide(observed: Observed) -> Plan:
        return Plan((Apply({"metadata": {"name": "x", "namespace": "apps"}}, "oops"),), 30.0)

    assert (await make_reconciler(decide)(KEY)).failure is Failure.PERMANENT
    assert [request for request in kube.writes if request.kind != "Event"] == []


def test_a_reference_needs_a_known_kind() -> None:
    assert Ref("Pod", "apps", "x").path == "/api/v1/namespaces/apps/pods/x"
    assert KEY.ref.path == "/apis/serving.headway.dev/v1alpha1/namespaces/apps/llmdeployments/demo"
