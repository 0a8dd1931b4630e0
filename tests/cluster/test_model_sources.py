"""A model from outside the engine image: a claim, a directory of the node, an OCI image. Each one answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import steps
from fleets import PACKED_MODEL, apply, manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NAME = "source"


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face directory, on the disk that this machine's node has too."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from headway_engine.bench.beside_transformers import default_model

    volume = tmp_path_factory.mktemp("volume")
    file, folder = default_model(), volume / "smollm2"
    folder.mkdir()
    volume.chmod(0o755)  # the engine runs as a user without rights of its own
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    dense = GgufConfig(dequantize=True)  # a model in GGUF blocks cannot be saved
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=dense
    )
    model.save_pretrained(folder)
    for part in folder.iterdir():
        part.chmod(0o644)
    return folder


@pytest.fixture
def claim(namespace: str, model_directory: Path) -> Iterator[str]:
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
                "hostPath": {"path": str(model_directory.parent), "type": "Directory"},
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
    steps.wait_ready(NAME, namespace, timeout_s=60)
    question = ["headway", "generate", "The capital of France is", "--max-tokens", "16"]
    return steps.run([*question, "--fleet", NAME, "--namespace", namespace])


def test_a_claim_serves_a_directory_inside_it(namespace: str, claim: str, model_directory: Path) -> None:
    assert "Paris" in answer(namespace, {"pvc": {"claimName": claim, "path": model_directory.name}})


def test_a_directory_of_the_node_is_refused_where_pod_security_says_so_and_served_where_not(
    namespace: str, model_directory: Path
) -> None:
    source = {"hostPath": {"path": str(model_directory)}}
    apply(namespace, manifest(NAME, model={"servedName": "smollm2", "source": source}))

    def refused() -> bool:
        ready = steps.condition(steps.fleet(NAME, namespace), "Ready")
        return ready.get("reason") == "PodRefused" and "hostPath" in ready["message"]

    steps.wait_until("Ready naming hostPath", refused, timeout_s=10)
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
        timeout_s=90,
    )
    assert "Paris" in answer(namespace, source)


def _mounts_image(namespace: str) -> bool:
    volumes = [volume for pod in steps.engine_pods(NAME, namespace) for volume in pod["spec"]["volumes"]]
    return any("image" in volume for volume in volumes)
