"""What the API server could not see: each wrong manifest is answered with its field and the bound."""

from decimal import Decimal
from typing import Any

import pytest
from rule_examples import VALID, changed

from headway_operator.api.parse import amount, parse, problems
from headway_operator.api.v1alpha1 import LLMDeployment

IDENTITY = {"metadata.name": "chat", "metadata.namespace": "default"}


def outcome(change: dict[str, Any]) -> LLMDeployment | list[str]:
    parsed = parse(changed(IDENTITY, change))
    if isinstance(parsed, LLMDeployment):
        return [str(error) for error in problems(parsed)] or parsed
    return [str(error) for error in parsed]


def template(**spec: Any) -> dict[str, Any]:
    return {"spec.template.spec": spec}


WRONG = [
    ({"spec.model.source": {"pvc": {"claimName": "My_Claim"}}}, "spec.model.source.pvc.claimName: must hold only a-z"),
    ({"spec.engine.image": "a b"}, "spec.engine.image: an image reference holds no white space: 'a b'"),
    (
        {"spec.model.source": {"image": {"reference": "x:1 "}}},
        "spec.model.source.image.reference: an image reference holds no white space: 'x:1 '",
    ),
    ({"spec.engine.resources.limits": {"cpu": "-1"}}, "spec.engine.resources.limits.cpu: must be at least 0, is -1"),
    (
        {"spec.engine.resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}},
        "spec.engine.resources.requests.memory: must be at most the limit 1000M, is 1Gi",
    ),
    (
        {"spec.engine.resources.limits": {"nvidia.com/gpu": 2}},
        "spec.engine.resources.limits.nvidia.com/gpu: must be engine.tensorParallelSize (1) or be left out, is 2",
    ),
    (
        {"spec.template.metadata.labels": {"serving.headway.dev/fleet": "x"}},
        "spec.template.metadata.labels[serving.headway.dev/fleet]: is set by the operator and cannot be overridden",
    ),
    (
        {"spec.template.metadata.labels": {"app.kubernetes.io/name": "x"}},
        "spec.template.metadata.labels[app.kubernetes.io/name]: is set by the operator and cannot be overridden",
    ),
    (
        {"spec.template.metadata.labels": {"team": "a b"}},
        "spec.template.metadata.labels[team]: a label's value has at most 63 of A-Z, a-z, 0-9, '-', '_' and '.': 'a b'",
    ),
    (
        {"spec.template.metadata.annotations": {"/x": "1"}},
        "spec.template.metadata.annotations[/x]: a key is an optional DNS prefix with '/', and a name",
    ),
    (template(hostNetwork=True), "spec.template.spec.hostNetwork: is set by the operator and cannot be overridden"),
    (
        template(terminationGracePeriodSeconds=1),
        "spec.template.spec.terminationGracePeriodSeconds: is set by the operator",
    ),
    (template(containers={"name": "x"}), "spec.template.spec.containers: must be a list"),
    (template(containers=[{"image": "x"}]), "spec.template.spec.containers[0].name: is required"),
    (template(volumes=["x"]), "spec.template.spec.volumes[0].name: is required"),
    (
        template(containers=[{"name": "engine", "image": "x"}]),
        "spec.template.spec.containers[0].image: is set by the operator; use spec.engine.image",
    ),
    (
        template(containers=[{"name": "engine", "args": ["x"]}]),
        "spec.template.spec.containers[0].args: is set by the operator; use the fields of spec.engine",
    ),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_field_is_named_with_its_bound(change: dict[str, Any], words: str) -> None:
    errors = outcome(change)
    assert isinstance(errors, list)
    (error,) = errors
    assert error.startswith(words)


RIGHT: list[dict[str, Any]] = [
    {},
    {"spec.engine.resources": {"requests": {"memory": "1G", "cpu": "500m"}, "limits": {"memory": "1Gi", "cpu": 1}}},
    {"spec.engine.resources.limits": {"nvidia.com/gpu": "1"}},
    {"spec.template.metadata.labels": {"example.com/team": "", "tier": "gold_1.x"}},
    template(containers=[{"name": "engine", "env": []}, {"name": "proxy", "image": "p:1"}], nodeSelector={"a": "b"}),
]


@pytest.mark.parametrize("change", RIGHT)
def test_right_manifest_becomes_a_model(change: dict[str, Any]) -> None:
    assert isinstance(outcome(change), LLMDeployment)


def test_every_error_is_reported_at_once() -> None:
    errors = outcome({**template(hostPID=True), "spec.engine.image": "a b"})
    assert isinstance(errors, list)
    assert len(errors) == 2


def test_what_a_newer_crd_lets_through_is_still_refused_by_range() -> None:
    errors = outcome({"spec.engine.capacity.maxNumSeqs": 5000, "spec.model.source": {}})
    assert errors == [
        "spec.model.source: exactly one of pvc, hostPath, image, packed must be set",
        "spec.engine.capacity.maxNumSeqs: Input should be less than or equal to 4096",
    ]


def test_missing_spec_is_an_error_and_not_an_exception() -> None:
    (error,) = parse(
        {key: VALID[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "chat", "namespace": "default"}}
    )
    assert str(error) == "spec: Field required"


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", 1),
        ("500m", "0.5"),
        ("1Ki", 1024),
        ("2Gi", 2 * 1024**3),
        ("1k", 1000),
        ("3E", 3 * 10**18),
        ("1e3", 1000),
        ("1E2", 100),
        (".5", "0.5"),
        ("+2", 2),
        ("100n", "1e-7"),
        ("1Ei", 1024**6),
        ("0", 0),
    ],
)
def test_quantity_is_read_as_kubernetes_does(quantity: str, number: str | int) -> None:
    assert amount(quantity) == Decimal(number)


def test_text_is_not_a_quantity() -> None:
    with pytest.raises(ValueError, match="not a quantity: 'lots'"):
        amount("lots")
