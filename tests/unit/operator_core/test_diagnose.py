"""The cause in words, and the cure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headway_operator.api.conditions import Reason
from headway_operator.core import pods
from headway_operator.core.diagnose import diagnose, worst
from headway_operator.core.observed import ContainerState, PodView

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = CREATED + timedelta(seconds=60)


def pod(state: ContainerState | None = None, message: str = "", name: str = "p", ready: bool = False) -> PodView:
    return PodView(
        name=name,
        uid="u",
        labels={},
        annotations={},
        phase="Pending",
        ready=ready,
        ip="",
        node="" if message else "n",
        created=CREATED,
        deleting=False,
        unschedulable_message=message,
        container=state,
    )


def waiting(reason: str, message: str = "") -> ContainerState:
    return ContainerState(ready=False, restart_count=0, waiting_reason=reason, waiting_message=message)


def ended(code: int, message: str = "", reason: str = "Error") -> ContainerState:
    return ContainerState(False, 2, "CrashLoopBackOff", "", reason, message, code)


@pytest.mark.parametrize(
    ("broken", "reason", "says"),
    [
        (
            pod(message="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
            Reason.INSUFFICIENT_GPUS,
            "add a GPU node",
        ),
        (pod(message='persistentvolumeclaim "weights" not found'), Reason.VOLUME_UNAVAILABLE, "create the claim"),
        (pod(message="0/2 nodes are available: 2 Insufficient memory."), Reason.UNSCHEDULABLE, "resources"),
        (pod(waiting("ImagePullBackOff", "not found")), Reason.IMAGE_UNAVAILABLE, "spec.engine.image"),
        (pod(waiting("ErrImageNeverPull")), Reason.IMAGE_UNAVAILABLE, "ErrImageNeverPull"),
        (pod(waiting("CreateContainerConfigError", 'secret "s" not found')), Reason.VOLUME_UNAVAILABLE, 'secret "s"'),
        (pod(waiting("RunContainerError", "exec failed")), Reason.ENGINE_CRASHED, "exec failed"),
        (pod(ended(3, "/models/a.gguf: no such file")), Reason.MODEL_UNUSABLE, "/models/a.gguf: no such file"),
        (pod(ended(2, "--dtype: int3")), Reason.ENGINE_REFUSED_SETTINGS, "--dtype: int3"),
        (pod(ended(137, reason="OOMKilled")), Reason.OUT_OF_MEMORY, "raise spec.engine.resources.limits.memory"),
        (pod(ended(1, "Traceback")), Reason.ENGINE_CRASHED, "code 1, 2 restarts: Traceback"),
    ],
)
def test_cause_is_named_with_its_cure(broken: PodView, reason: Reason, says: str):
    found = diagnose(broken, NOW)
    assert found is not None
    assert found.reason is reason
    assert says in found.message


@pytest.mark.parametrize(
    "fine", [pod(), pod(waiting("ContainerCreating")), pod(ended(1), ready=True), pod(ContainerState(False, 0))]
)
def test_starting_or_serving_pod_has_no_diagnosis(fine: PodView):
    assert diagnose(fine, NOW) is None


def test_a_pod_that_served_and_stopped_answering_does_not_start_but_stalls():
    stalled = replace(pod(ContainerState(ready=False, restart_count=0)), lost_since=NOW)
    found = diagnose(stalled, NOW)
    assert found is not None
    assert found.reason is Reason.ENGINE_STALLED
    assert "pod p served and is not ready since 00:01:00Z" in found.message
    assert not pods.warming(stalled), "nobody waits for it as for one that starts"
    assert pods.warming(replace(stalled, lost_since=None))


def test_volumes_that_do_not_come_are_told_after_some_seconds():
    unmounted = replace(pod(waiting("ContainerCreating")), volumes_ready=False)
    assert diagnose(unmounted, CREATED + timedelta(seconds=3)) is None
    found = diagnose(unmounted, CREATED + timedelta(seconds=9))
    assert found is not None
    assert found.reason is Reason.VOLUME_UNAVAILABLE
    assert "spec.model.source" in found.message


def test_first_pod_speaks_for_those_alike():
    found = worst([pod(ended(3, "bad"), name="b"), pod(ended(3, "bad"), name="a"), pod(name="c")], NOW)
    assert found is not None
    assert found.message.startswith("pod a cannot load the model: bad")
    assert found.message.endswith("(and 1 more)")


def test_long_messages_are_cut():
    found = diagnose(pod(ended(1, "x" * 5000)), NOW)
    assert found is not None
    assert len(found.message) < 600
