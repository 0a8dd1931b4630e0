"""Pods read by their texts: what is remembered says what a fresh parse says, and no more is remembered than there is."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headway_operator.shell.pods import PodReader, controller_of, pod_view

STATES = st.sampled_from(
    [{}, {"waiting": {"reason": "ErrImagePull", "message": "no"}}, {"terminated": {"exitCode": 3}}]
)
PODS = st.builds(
    lambda number, version, ready, state, controller: {
        "metadata": {
            "name": f"chat-{number}",
            "uid": f"u-{number}",
            "resourceVersion": str(version),
            "labels": {"version": str(version)},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"uid": "other"}, {"uid": "fleet", "controller": controller}],
        },
        "spec": {"containers": [{"name": "engine", "image": f"engine:{version}"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:05Z"}],
            "containerStatuses": [{"name": "engine", "restartCount": version, "state": state}],
        },
    },
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["True", "False"]),
    STATES,
    st.booleans(),
)
LISTS = st.lists(PODS, max_size=4, unique_by=lambda pod: pod["metadata"]["name"])


@given(st.lists(LISTS, max_size=6))
def test_pods_remembered_over_passes_are_the_pods_parsed_afresh(passes: list[list[dict[str, Any]]]) -> None:
    before: dict[str, Any] = {}
    for pods in passes:
        reader = PodReader(before)
        seen = [reader(json.dumps(pod)) for pod in pods]
        assert [pod.view for pod in seen] == [pod_view(pod) for pod in pods]
        assert [pod.controller for pod in seen] == [controller_of(pod) for pod in pods]
        assert len(reader.pods) == len(pods)
        before = reader.pods


def test_a_pod_that_did_not_change_is_not_parsed_again() -> None:
    text, changed = json.dumps({"metadata": {"name": "a"}}), json.dumps({"metadata": {"name": "a", "uid": "2"}})
    first = PodReader({})
    pod = first(text)
    second = PodReader(first.pods)
    assert second(text) is pod
    assert second(changed) is not pod


def test_nobody_controls_a_pod_whose_owner_has_no_uid() -> None:
    assert controller_of({"metadata": {"ownerReferences": [{"controller": True}]}}) is None
