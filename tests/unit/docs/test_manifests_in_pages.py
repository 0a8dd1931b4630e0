"""Every manifest of an LLMDeployment that a page shows is one that the operator accepts, and so is every part of one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway_operator.api.parse import parse, problems
from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec

ROOT = Path(__file__).resolve().parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FIELDS = {field.alias or name for name, field in LLMDeploymentSpec.model_fields.items()}
# What a part of a spec is shown without.
_REST: dict[str, Any] = {
    "model": {"source": {"packed": {"path": "/models/m.gguf"}}},
    "engine": {
        "device": "cpu",
        "capacity": {"maxNumSeqs": 256, "maxNumBatchedTokens": 2048, "maxQueuedRequests": 4096},
    },
    "slo": {"workloadClass": "interactive"},
    "scaling": {"mode": "Auto", "minReplicas": 1, "maxReplicas": 8},
}


def _shown() -> list[tuple[Path, Mapping[str, Any]]]:
    texts = [(page, text) for page in PAGES for text in _BLOCK.findall(page.read_text())]
    blocks = [(page, block) for page, text in texts for block in yaml.safe_load_all(text)]
    return [(page, block) for page, block in blocks if block.get("kind") == "LLMDeployment" or set(block) <= _FIELDS]


def _whole(block: Mapping[str, Any]) -> dict[str, Any]:
    if "kind" not in block:
        spec = {**_REST, **block, "engine": {**_REST["engine"], **block.get("engine", {})}}
        block = {"apiVersion": "serving.headway.dev/v1alpha1", "kind": "LLMDeployment", "spec": spec}
    return {**block, "metadata": {"namespace": "default", "name": "shown", **block.get("metadata", {})}}


def test_pages_show_manifests() -> None:
    assert len(_shown()) > 8


@pytest.mark.parametrize(("page", "block"), _shown(), ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_manifest_of_a_page_is_accepted(page: Path, block: Mapping[str, Any]) -> None:
    fleet = parse(_whole(block))

    assert isinstance(fleet, LLMDeployment), fleet
    assert problems(fleet) == ()
