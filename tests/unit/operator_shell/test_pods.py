"""Pods read from JSON: what a pod lacks has a default, and what nobody reads does no harm."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_operator.core.observed import ContainerState
from headway_operator.shell.pods import Metadata, Pod, pod_view

BORN, READY = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
POD: dict[str, Any] = {
    "metadata": {
        "name": "chat-0",
        "uid": "u-0",
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {"nodeName": "n", "containers": [{"name": "other", "image": "x"}, {"name": "engine", "image": "engine:1"}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
        "containerStatuses": [{"name": "engine", "ready": True, "restartCount": 2, "state": {"running": {}}}],
    },
}


def read(pod: object) -> Pod:
    return msgspec.json.decode(json.dumps(pod), type=Pod)


def test_a_running_pod_is_read() -> None:
    view = pod_view(read(POD))
    assert (view.name, view.uid, view.labels, view.annotations) == ("chat-0", "u-0", {"a": "b"}, {"c": "d"})
    assert (view.phase, view.ip, view.node, view.image) == ("Running", "10.0.0.1", "n", "engine:1")
    assert (view.created, view.ready, view.ready_since, view.deleting) == (BORN, True, READY, False)
    assert view.container == ContainerState(ready=True, restart_count=2)


@given(
    part=st.sampled_from(["metadata", "spec", "status"]),
    extra=st.dictionaries(st.sampled_from(["managedFields", "tolerations", "qosClass"]), st.lists(st.integers())),
)
def test_what_nobody_reads_changes_nothing(part: str, extra: dict[str, Any]) -> None:
    assert pod_view(read(POD | {part: POD[part] | extra})) == pod_view(read(POD))


@pytest.mark.parametrize("part", ["labels", "annotations", "ownerReferences", "deletionTimestamp"])
def test_null_is_as_good_as_left_out(part: str) -> None:
    assert pod_view(read(POD | {"metadata": POD["metadata"] | {part: None}})).deleting is False


def test_a_pod_that_is_being_deleted_says_by_when_it_should_be_gone() -> None:
    view = pod_view(read(POD | {"metadata": POD["metadata"] | {"deletionTimestamp": "2026-01-01T00:06:00Z"}}))
    assert (view.deleting, view.due) == (True, datetime(2026, 1, 1, 0, 6, tzinfo=UTC))


def test_an_empty_pod_is_a_pod_that_never_was_ready() -> None:
    view = pod_view(read({}))
    assert (view.name, view.ready, view.ready_since, view.container, view.volumes_ready) == (
        "",
        False,
        None,
        None,
        True,
    )


@pytest.mark.parametrize(
    ("since", "engine", "lost"),
    [
        ("00:20:00", {"started": True}, True),
        ("00:00:01", {"started": True}, False),  # it has started and is about to be ready for the first time
        ("00:20:00", {"started": False}, False),  # its container was restarted and loads
        ("00:20:00", {"started": True, "state": {"terminated": {"exitCode": 1}}}, False),
    ],
)
def test_a_pod_that_served_and_does_not_answer_is_told_from_one_that_starts(
    since: str, engine: dict[str, Any], lost: bool
) -> None:
    running = {"name": "engine", "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": f"2026-01-01T{since}Z"}
    view = pod_view(read({"status": {"conditions": [condition], "containerStatuses": [running | engine]}}))
    assert view.lost_since == (datetime(2026, 1, 1, 0, 20, tzinfo=UTC) if lost else None)


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}, "", 0),
        ({"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}, "OOMKilled", 137),
        # It waits for its restart: the last end tells why.
        ({"state": {"waiting": {}}, "lastState": {"terminated": {"reason": "Error", "exitCode": 3}}}, "Error", 3),
    ],
)
def test_a_container_that_does_not_run_says_why(status: dict[str, Any], reason: str, code: int) -> None:
    container = pod_view(read({"status": {"containerStatuses": [{"name": "engine"} | status]}})).container
    assert container is not None
    assert (container.terminated_reason, container.terminated_exit_code) == (reason, code)
    assert container.waiting_reason == status["state"].get("waiting", {}).get("reason", "")


@pytest.mark.parametrize(
    ("owners", "controller"),
    [
        ([{"uid": "other"}, {"uid": "fleet", "controller": True}], "fleet"),
        ([{"uid": "fleet", "controller": False}], None),
        ([{"controller": True}], None),
        (None, None),
    ],
)
def test_the_controller_is_the_owner_that_says_so(owners: object, controller: str | None) -> None:
    assert msgspec.convert({"ownerReferences": owners}, Metadata).controller == controller
