"""The schema covers every value and refuses the rest; generated files are up to date."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import manifests
import pytest
import yaml
from chart_support import template

FREE_FORM = {"commonLabels", "serviceAccount.annotations", "operator.resources", "gateway.resources", "operator.affinity", "operator.nodeSelector",
             "operator.podLabels", "operator.podAnnotations", "metrics.serviceMonitor.labels",
             "metrics.prometheusRule.labels"}  # fmt: skip


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and here not in FREE_FORM:
            yield from leaves(value, here)
        else:
            yield here


def schema_leaves(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> Iterator[str]:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if path in FREE_FORM or "properties" not in node:
        yield path
        return
    assert node["additionalProperties"] is False, path
    for name, child in node["properties"].items():
        yield from schema_leaves(schema, child, f"{path}.{name}".lstrip("."))


def test_schema_and_values_name_the_same_things() -> None:
    values = yaml.safe_load((manifests.CHART / "values.yaml").read_text())
    schema = json.loads((manifests.CHART / "values.schema.json").read_text())
    assert sorted(leaves(values)) == sorted(set(schema_leaves(schema, schema)) - {"global"})


def test_every_value_is_in_the_readme() -> None:
    values = yaml.safe_load((manifests.CHART / "values.yaml").read_text())
    documented = set(re.findall(r"^\| `([\w.]+)` \|", manifests.README.read_text(), re.MULTILINE))
    assert documented == set(leaves(values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("operator.replicas=0", "at '/operator/replicas': minimum: got 0, want 1"),
        ("operator.replicas=9", "at '/operator/replicas': maximum: got 9, want 5"),
        ("operator.replicas=two", "at '/operator/replicas': got string, want integer"),
        ("operator.replica=2", "additional properties 'replica' not allowed"),
        ("rbac.scope=everything", "at '/rbac/scope': value must be one of 'cluster', 'namespace'"),
        ("operator.logLevel=info", "at '/operator/logLevel': value must be one of"),
        ("engine.image.pullPolicy=never", "at '/engine/image/pullPolicy': value must be one of"),
        ("engine.image.repository=host/x:tag", "at '/engine/image/repository'"),
        ("engine.image.digest=abc", "at '/engine/image/digest'"),
        ("operator.resources.limits.memory=lots", "at '/operator/resources/limits/memory'"),
        (
            "networkPolicy.apiServerPorts[0]=70000",
            "at '/networkPolicy/apiServerPorts/0': maximum: got 70,000, want 65,535",
        ),
        ("gateway.engines[0]=chat-engines.demo.svc", "at '/gateway/engines/0'"),
        (
            "gateway.requestTimeoutSeconds=86401",
            "at '/gateway/requestTimeoutSeconds': maximum: got 86,401, want 86,400",
        ),
        ("gateway.replicas=0", "at '/gateway/replicas': minimum: got 0, want 1"),
        ("metrics.serviceMonitor.interval=often", "at '/metrics/serviceMonitor/interval'"),
        ("fullnameOverride=Not_A_Name", "at '/fullnameOverride'"),
        ("serviceAccount.create=false", "serviceAccount.name is needed when serviceAccount.create is false"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_bound(values: str, said: str) -> None:
    done = template(f"--set={values}")
    assert done.returncode != 0
    assert said in done.stderr


def test_helm_lint_has_no_finding() -> None:
    done = subprocess.run(
        [manifests.helm(), "lint", "--strict", str(manifests.CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout)


@pytest.mark.parametrize("path", [manifests.OPERATOR, manifests.README], ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Any) -> None:
    assert path.read_text() == manifests.generated()[path], "run `make manifests`"


def test_the_plain_manifests_do_not_mention_helm() -> None:
    assert "helm" not in manifests.OPERATOR.read_text().lower()


def test_the_kustomization_names_files_that_are_there() -> None:
    folder = manifests.ROOT / "deploy"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert all((folder / name).is_file() for name in kustomization["resources"])
    text = (folder / "kustomization.yaml").read_text()
    index = int(re.search(r"/env/(\d+)/value", text)[1])  # type: ignore[index]  # the next line fails when it is gone
    deployment = next(o for o in yaml.safe_load_all(manifests.OPERATOR.read_text()) if o["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["env"][index]["name"] == "HEADWAY_ENGINE_IMAGE"
