"""How the real API server treats LLMDeployments: defaults, subresources, ownership of fields, unknown fields."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import ApiServer
from headway_pytest import CRD_PATH
from rule_examples import VALID, changed

from headway_operator.api.crd import NAME, crd
from headway_operator.api.parse import parse
from headway_operator.api.v1alpha1 import DemandStatus, LLMDeployment

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"


def manifest(**status: Any) -> dict[str, Any]:
    return {"apiVersion": VALID["apiVersion"], "kind": VALID["kind"], "metadata": {"name": "chat"}, "status": status}


def condition(kind: str, status: str = "True") -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": "Because",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def test_crd_is_established_with_its_names(apiserver: ApiServer) -> None:
    found = apiserver.api.get(f"{CRD_PATH}/{NAME}").ok()
    states = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert states["Established"] == states["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in states
    assert found["status"]["acceptedNames"]["shortNames"] == ["llmdep"]


def test_applying_the_crd_again_changes_nothing(apiserver: ApiServer) -> None:
    path = f"{CRD_PATH}/{NAME}"
    before = apiserver.api.get(path).ok()["metadata"]["resourceVersion"]
    assert apiserver.api.apply(path, crd(), "test", force=True).ok()["metadata"]["resourceVersion"] == before


def test_server_fills_in_the_same_defaults_as_the_models(apiserver: ApiServer, fleets: str) -> None:
    stored = apiserver.api.create(fleets, dict(VALID)).ok()
    ours = LLMDeployment.model_validate({**VALID, "metadata": stored["metadata"]})
    theirs = parse(stored)
    assert theirs == ours
    # Nothing is left for the models to add but what is empty.
    filled = ours.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert stored["spec"] == without_empty(filled)


def without_empty(value: dict[str, Any]) -> dict[str, Any]:
    items = {key: without_empty(item) if isinstance(item, dict) else item for key, item in value.items()}
    return {key: item for key, item in items.items() if item not in ({}, [])}


def test_scale_subresource_reads_and_writes_replicas_in_external(apiserver: ApiServer, fleets: str) -> None:
    apiserver.api.create(fleets, changed({"spec.scaling.mode": "External", "spec.replicas": 2})).ok()
    status = manifest(replicas=1, selector="serving.headway.dev/fleet=chat")
    apiserver.api.apply(f"{fleets}/chat/status", status, "operator").ok()
    scale = apiserver.api.get(f"{fleets}/chat/scale").ok()
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 1)
    assert scale["status"]["selector"] == "serving.headway.dev/fleet=chat"
    apiserver.api.merge(f"{fleets}/chat/scale", {"spec": {"replicas": 5}}).ok()
    assert apiserver.api.get(f"{fleets}/chat").ok()["spec"]["replicas"] == 5


def test_scale_subresource_is_refused_in_auto_with_the_reason(apiserver: ApiServer, fleets: str) -> None:
    auto = {"spec.scaling": {"mode": "Auto", "maxReplicas": 3}, "spec.slo": {"workloadClass": "interactive"}}
    apiserver.api.create(fleets, changed(auto)).ok()
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "chat"}, "spec": {"replicas": 2}}
    answer = apiserver.api.send("PUT", f"{fleets}/chat/scale", scale)
    assert answer.status == 422
    assert "spec.replicas must be unset when spec.scaling.mode is Auto" in answer.message


def test_status_does_not_change_the_generation_and_spec_cannot_be_written_through_it(
    apiserver: ApiServer, fleets: str
) -> None:
    created = apiserver.api.create(fleets, dict(VALID)).ok()
    sneaky = {**manifest(observedGeneration=1), "spec": {"paused": True}}
    written = apiserver.api.merge(f"{fleets}/chat/status", sneaky).ok()
    assert written["metadata"]["generation"] == created["metadata"]["generation"] == 1
    assert written["spec"]["paused"] is False


def test_two_managers_own_a_condition_each(apiserver: ApiServer, fleets: str) -> None:
    apiserver.api.create(fleets, dict(VALID)).ok()
    path = f"{fleets}/chat/status"
    apiserver.api.apply(path, manifest(conditions=[condition("Ready"), condition("Paused", "False")]), "operator").ok()
    apiserver.api.apply(path, manifest(conditions=[condition("example.com/Audited")]), "auditor").ok()
    after = apiserver.api.apply(path, manifest(conditions=[condition("Ready", "False")]), "operator").ok()
    states = {item["type"]: item["status"] for item in after["status"]["conditions"]}
    assert states == {"Ready": "False", "example.com/Audited": "True"}
    taken = apiserver.api.apply(path, manifest(conditions=[condition("Ready", "True")]), "auditor")
    assert taken.status == 409


def test_applying_the_same_status_again_writes_nothing(apiserver: ApiServer, fleets: str) -> None:
    apiserver.api.create(fleets, dict(VALID)).ok()
    status = manifest(observedGeneration=1, replicas=1, conditions=[condition("Ready")])
    first = apiserver.api.apply(f"{fleets}/chat/status", status, "operator").ok()
    again = apiserver.api.apply(f"{fleets}/chat/status", status, "operator").ok()
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_unknown_field_is_pruned_with_a_warning_on_create(apiserver: ApiServer, fleets: str) -> None:
    answer = apiserver.api.send("POST", f"{fleets}?fieldValidation=Warn", changed({"spec.engine.speculative": True}))
    assert "speculative" not in answer.ok()["spec"]["engine"]
    (warning,) = answer.warnings
    assert "unknown field" in warning
    assert "spec.engine.speculative" in warning


def test_unknown_field_is_refused_in_a_strict_request(apiserver: ApiServer, fleets: str) -> None:
    path = f"{fleets}?fieldValidation=Strict"
    answer = apiserver.api.send("POST", path, changed({"spec.engine.speculative": True}))
    assert answer.status == 400
    assert 'unknown field "spec.engine.speculative"' in answer.message


def test_unknown_field_in_server_side_apply_is_an_error_that_says_so(apiserver: ApiServer, fleets: str) -> None:
    """The server answers 500 here: an operator newer than its CRD must not take it for a passing fault."""
    apiserver.api.create(fleets, dict(VALID)).ok()
    answer = apiserver.api.apply(f"{fleets}/chat/status", manifest(fortune=1), "operator")
    assert answer.status == 500
    assert "field not declared in schema" in answer.message


def test_template_keeps_what_the_schema_does_not_know(apiserver: ApiServer, fleets: str) -> None:
    spec = {"nodeSelector": {"pool": "gpu"}, "containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}]}]}
    stored = apiserver.api.create(fleets, changed({"spec.template.spec": spec})).ok()
    assert stored["spec"]["template"]["spec"] == spec


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_example_is_applied_by_kubectl_and_parsed(example: str, apiserver: ApiServer, namespace: str) -> None:
    command = [str(apiserver.kubectl), f"--kubeconfig={apiserver.kubeconfig}", f"--namespace={namespace}"]
    shown = subprocess.run(
        [*command, "apply", "-f", str(EXAMPLES / example), "-o", "yaml"], check=False, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert isinstance(parse(yaml.safe_load(shown.stdout)), LLMDeployment)


def test_kubectl_prints_the_columns_a_user_looks_for(apiserver: ApiServer, fleets: str, namespace: str) -> None:
    apiserver.api.create(fleets, changed({"spec.slo": {"workloadClass": "interactive"}})).ok()
    effective = {
        "maxNumSeqs": 72,
        "maxNumBatchedTokens": 512,
        "batchWaitMilliseconds": 0,
        "maxQueuedRequests": 256,
    }
    status = manifest(
        model="smollm2",
        readyReplicas=3,
        scaling={"desiredReplicas": 4},
        slo={"ttftObserved": "612ms"},
        tuning={"effective": effective},
        conditions=[{**condition("Ready", "False"), "reason": "Starting"}, condition("SLOMet")],
    )
    apiserver.api.apply(f"{fleets}/chat/status", status, "operator").ok()
    command = [str(apiserver.kubectl), f"--kubeconfig={apiserver.kubeconfig}", f"--namespace={namespace}"]
    shown = subprocess.run([*command, "get", "llmdep"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert shown[0].split() == [
        "NAME",
        "MODEL",
        "CLASS",
        "READY",
        "DESIRED",
        "TTFT-P95",
        "SLO",
        "SEQS",
        "STATUS",
        "AGE",
    ]
    assert shown[1].split()[:-1] == ["chat", "smollm2", "interactive", "3", "4", "612ms", "True", "72", "Starting"]


def test_what_the_loop_remembers_comes_back_as_it_was_written(apiserver: ApiServer, fleets: str) -> None:
    apiserver.api.create(fleets, dict(VALID)).ok()
    demand = DemandStatus(
        time=datetime(2026, 1, 1, tzinfo=UTC),
        revision="ebd385",
        per_minute=tuple(range(60)),
        input_tokens=24,
        output_tokens=32,
        step_microseconds=39_800,
        sequence_microseconds=12_010,
        prompt_token_microseconds=2_510,
    )
    status = manifest(demand=demand.model_dump(mode="json", by_alias=True, exclude_none=True))
    written = apiserver.api.apply(f"{fleets}/chat/status", status, "operator").ok()
    assert DemandStatus.model_validate(written["status"]["demand"]) == demand
    too_long = manifest(demand={**status["status"]["demand"], "perMinute": [0] * 61})
    assert apiserver.api.apply(f"{fleets}/chat/status", too_long, "operator").status == 422
