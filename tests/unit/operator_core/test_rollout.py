"""The next step for the pods, and who goes first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from engine_samples import sample

from headway_operator.api.v1alpha1 import Rollout
from headway_operator.core import names, rollout
from headway_operator.core.observed import ContainerState, PodView

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
SURGE = Rollout()
NO_SURGE = Rollout(max_surge=0, max_unavailable=1)
NEW, OLD = "bbbbbb", "aaaaaa"


def pod(ordinal: int, revision: str = NEW, **changes: object) -> PodView:
    name = names.pod_name("f", revision, ordinal)
    base = PodView(
        name=name,
        uid=f"uid-{name}",
        labels={names.LABEL_REVISION: revision},
        annotations={},
        phase="Running",
        ready=True,
        ip="10.0.0.1",
        node="n",
        created=NOW - timedelta(minutes=5),
        deleting=False,
    )
    return replace(base, **changes)


def draining(ordinal: int, revision: str = OLD) -> PodView:
    return pod(ordinal, revision, annotations={names.ANNOTATION_DRAIN_STARTED: "2026-01-01T00:59:00Z"})


def blocked(ordinal: int, message: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.") -> PodView:
    return pod(ordinal, phase="Pending", ready=False, ip="", node="", unschedulable_message=message)


def steps(pods: list[PodView], desired: int, rule: Rollout = SURGE, samples: dict | None = None) -> rollout.Steps:
    return rollout.next_steps(pods, rollout.Wanted(desired, NEW, "engine:2"), rule, samples or {}, NOW)


def retired(found: rollout.Steps) -> list[str]:
    return [one.pod.name for one in found.retire]


def test_missing_pods_are_created():
    assert steps([pod(0)], 3).create == 2


CRASHED = ContainerState(False, 3, "CrashLoopBackOff", "", "Error", "", 1)


def test_a_pod_that_cannot_run_with_an_image_of_the_past_is_replaced_at_once():
    found = steps([pod(0, ready=False, image="engine:1", container=CRASHED), pod(1, image="engine:1")], 2)
    assert retired(found) == [names.pod_name("f", NEW, 0)]
    assert found.retire[0].at_once
    assert found.create == 1


def test_a_pod_that_cannot_run_with_the_current_image_is_left_to_kubelet():
    found = steps([pod(0, ready=False, image="engine:2", container=CRASHED)], 1)
    assert (found.create, found.retire) == (0, ())


def test_a_pod_that_still_starts_with_an_image_of_the_past_is_given_its_time():
    found = steps([pod(0, ready=False, image="engine:1", container=ContainerState(False, 0))], 1)
    assert (found.create, found.retire) == (0, ())


def test_settled_fleet_needs_no_step():
    found = steps([pod(0), pod(1)], 2)
    assert (found.create, found.retire) == (0, ())


def test_scale_down_to_zero_retires_all():
    assert retired(steps([pod(0), pod(1)], 0)) == ["f-bbbbbb-1", "f-bbbbbb-0"]


def test_draining_pods_do_not_count_as_replicas():
    assert steps([draining(0, NEW), pod(1)], 2).create == 1


def test_victim_order_is_not_ready_then_least_in_flight_then_highest_ordinal():
    pods = [pod(0), pod(1), pod(2), pod(3, ready=False), pod(4)]
    samples = {"f-bbbbbb-0": sample(1), "f-bbbbbb-1": sample(5), "f-bbbbbb-2": sample(1)}
    found = steps(pods, 0, samples=samples)
    assert retired(found) == ["f-bbbbbb-3", "f-bbbbbb-2", "f-bbbbbb-0", "f-bbbbbb-1", "f-bbbbbb-4"]


def test_pod_that_never_answered_goes_at_once():
    found = steps([pod(0), pod(1, ready=False)], 1)
    assert found.retire[0].at_once


def test_ready_pod_is_always_drained():
    assert not steps([pod(0)], 0).retire[0].at_once


def test_pod_that_is_not_ready_but_has_streams_is_drained():
    found = steps([pod(0), pod(1, ready=False)], 1, samples={"f-bbbbbb-1": sample(3)})
    assert not found.retire[0].at_once


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_ended_pod_is_swept_and_replaced(phase: str):
    found = steps([pod(0, phase=phase, ready=False)], 1)
    assert retired(found) == ["f-bbbbbb-0"]
    assert found.create == 1


def test_pod_that_a_node_refused_a_moment_ago_is_no_hot_loop():
    assert retired(steps([pod(0, phase="Failed", created=NOW)], 1)) == []


def test_rollout_surges_by_one_and_touches_nothing_else():
    found = steps([pod(0, OLD), pod(1, OLD)], 2)
    assert (found.create, found.retire) == (1, ())


def test_old_revision_serves_until_the_new_pod_is_ready():
    found = steps([pod(0, OLD), pod(1, OLD), pod(0, ready=False)], 2)
    assert (found.create, found.retire) == (0, ())


def test_ready_new_pod_lets_one_old_pod_go():
    found = steps([pod(0, OLD), pod(1, OLD), pod(0)], 2)
    assert retired(found) == ["f-aaaaaa-1"]


def test_draining_old_pod_still_holds_its_place():
    assert steps([pod(0, OLD), draining(1), pod(0)], 2).create == 0
    assert steps([pod(0, OLD), pod(0)], 2).create == 1


def test_without_surge_an_old_pod_goes_first():
    found = steps([pod(0, OLD), pod(1, OLD)], 2, NO_SURGE)
    assert (found.create, retired(found)) == (0, ["f-aaaaaa-1"])
    assert steps([pod(0, OLD), draining(1)], 2, NO_SURGE).create == 0
    assert steps([pod(0, OLD)], 2, NO_SURGE).create == 1


def test_old_pods_that_do_not_serve_make_room_at_once():
    found = steps([pod(0, OLD, ready=False)], 1)
    assert retired(found) == ["f-aaaaaa-0"]


def test_surge_pod_without_a_gpu_replaces_in_place():
    found = steps([pod(0, OLD), blocked(0)], 1)
    assert retired(found) == ["f-aaaaaa-0"]
    assert "replaced in place" in found.retire[0].reason


def test_replacement_in_place_waits_for_the_pod_that_is_going_already():
    assert retired(steps([pod(0, OLD), draining(1), blocked(0)], 2)) == []


def test_replacement_in_place_is_for_missing_gpus_only():
    assert retired(steps([pod(0, OLD), blocked(0, "1 node(s) didn't match node selector")], 1)) == []


def test_scheduler_gets_a_moment_before_replacement_in_place():
    assert retired(steps([pod(0, OLD), replace(blocked(0), created=NOW)], 1)) == []


def test_scale_down_in_the_middle_of_a_rollout_ends_at_the_new_count():
    found = steps([pod(0, OLD), pod(0), pod(1)], 1)
    assert retired(found) == ["f-aaaaaa-0", "f-bbbbbb-1"]


def test_a_pod_that_a_dead_node_never_lets_go_takes_no_room_of_a_rollout():
    old, new = pod(0, OLD, node="alive"), pod(0)
    leaving = replace(pod(1, OLD, node="dead"), deleting=True, ready=False, due=NOW - timedelta(seconds=59))
    assert steps([old, new, leaving], 2).create == 0, "it may still hold its GPU"
    gone = replace(leaving, due=NOW - timedelta(seconds=60))
    assert steps([old, new, gone], 2).create == 1
