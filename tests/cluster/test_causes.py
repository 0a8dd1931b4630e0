"""What cannot run says why, in the fleet's conditions, soon, and with the cure."""

from typing import Any

import pytest
import steps
from fleets import SERVES_S, SOON_S, apply, manifest, wait_condition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "cause"


def engine(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = manifest(NAME)["spec"]["engine"]
    return found | changes


def ready_message(namespace: str, cause: str) -> str:
    """Wait until the fleet's Ready condition names the cause, and return its message."""
    seen: list[str] = []

    def message() -> str:
        found = str(steps.condition(steps.fleet(NAME, namespace), "Ready").get("message", ""))
        seen[:] = [found]
        return found if cause in found else ""

    try:
        return str(steps.wait_until(f"Ready naming {cause}", message, timeout_s=SOON_S))
    except steps.StepError as error:
        raise AssertionError(f"{error}; it says {seen}") from error


def test_no_gpu_in_the_cluster_is_named_with_the_cure(namespace: str) -> None:
    apply(namespace, manifest(NAME, engine=engine(device="cuda")))
    message = ready_message(namespace, "nvidia.com/gpu")
    assert "device" in message, "the cure: another device, or nodes with GPUs"


def test_an_image_that_does_not_exist_is_named(namespace: str) -> None:
    image = "registry.headway.local/no-such-engine:1"
    apply(namespace, manifest(NAME, engine=engine(image=image)))
    ready_message(namespace, image)


def test_a_missing_model_file_is_named(namespace: str) -> None:
    missing = "/models/no-such-model.gguf"
    apply(namespace, manifest(NAME, model={"source": {"packed": {"path": missing}}}))
    condition = wait_condition(NAME, namespace, "ModelAvailable", "False", timeout_s=SERVES_S)
    assert missing in condition["message"]


def test_a_spec_that_the_api_server_cannot_refuse_leaves_the_running_fleet_alone(served: tuple[str, str]) -> None:
    name, namespace = served
    before = [pod["metadata"]["uid"] for pod in steps.engine_pods(name, namespace)]
    apply(namespace, manifest(name, template={"spec": {"containers": "not a list"}}))
    condition = wait_condition(name, namespace, "Accepted", "False")
    assert "template" in condition["message"]
    apply(namespace, manifest(name))
    wait_condition(name, namespace, "Accepted", "True")
    assert [pod["metadata"]["uid"] for pod in steps.engine_pods(name, namespace)] == before
