"""A model from outside the engine image: a claim, a directory of the node, an OCI image. Each one answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import steps
from fleets import PACKED_MODEL, SERVES_S, SOON_S, apply, manifest
from reference import Reference

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

NAME = "source"


@pytest.fixture
def claim(namespace: str, reference: Reference) -> Iterator[str]:
    """A bound claim on a volume that holds the directory."""
    volume = f"{namespace}-models"
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    objects: list[dict[str, Any]] = [
        {
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **common,
                "capacity": size,
                "hostPath": {"path": str(reference.folder.parent), "type": "Directory"},
            },
        },
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": namespace},
            "spec": {**common, "volumeName": volume, "resources": {"requests": size}},
        },
    ]
    for one in objects:
        steps.run(["kubectl", "apply", "--server-side", "-f", "-"], stdin=json.dumps({"apiVersion": "v1", **one}))
    yield "models"
    steps.run(["kubectl", "delete", "pv", volume, "--wait=false"])


def answer(namespace: str, source: dict[str, Any]) -> str:
    apply(namespace, manifest(NAME, model={"servedName": "smollm2", "source": source}))
    steps.wait_ready(NAME, namespace)
    question = ["headway", "generate", "The capital of France is", "--max-tokens", "16"]
    return steps.run([*question, "--fleet", NAME, "--namespace", namespace])


def test_a_claim_serves_a_directory_inside_it(namespace: str, claim: str, reference: Reference) -> None:
    assert "Paris" in answer(namespace, {"pvc": {"claimName": claim, "path": reference.folder.name}})


def test_a_directory_of_the_node_is_refused_where_pod_security_says_so_and_served_where_not(
    namespace: str, reference: Reference
) -> None:
    source = {"hostPath": {"path": str(reference.folder)}}
    apply(namespace, manifest(NAME, model={"servedName": "smollm2", "source": source}))

    def refused() -> bool:
        ready = steps.condition(steps.fleet(NAME, namespace), "Ready")
        return ready.get("reason") == "PodRefused" and "hostPath" in ready["message"]

    steps.wait_until("Ready naming hostPath", refused, timeout_s=SOON_S)
    level = "pod-security.kubernetes.io/enforce=privileged"
    steps.run(["kubectl", "label", "namespace", namespace, "--overwrite", level])
    assert "Paris" in answer(namespace, source)


def test_an_image_that_holds_a_model_is_mounted(namespace: str) -> None:
    # The engine's own image holds one, below the folder where the volume hides it.
    apply(namespace, manifest(NAME))
    steps.wait_ready(NAME, namespace)
    [pod] = steps.engine_pods(NAME, namespace)
    engine_image = pod["spec"]["containers"][0]["image"]
    source = {"image": {"reference": engine_image, "path": PACKED_MODEL.lstrip("/")}}
    deployment = manifest(NAME, model={"servedName": "smollm2", "source": source})
    apply(namespace, deployment)
    steps.wait_until(
        "a pod with the volume",
        lambda: len(steps.engine_pods(NAME, namespace)) == 1 and _mounts_image(namespace),
        timeout_s=SERVES_S,
    )
    assert "Paris" in answer(namespace, source)


def _mounts_image(namespace: str) -> bool:
    volumes = [volume for pod in steps.engine_pods(NAME, namespace) for volume in pod["spec"]["volumes"]]
    return any("image" in volume for volume in volumes)
