"""Every CEL rule of the CRD on the real API server: what it lets pass, what it refuses, and in which words."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from apiserver import ApiServer
from rule_examples import EXAMPLES, Example, changed

from headway_operator.api.crd import crd

pytestmark = pytest.mark.apiserver


def by_rule(example: Example) -> str:
    return f"{example.place}: {example.message}"


def rules_in(schema: dict[str, Any], place: str = "") -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"{place}: {rule['message']}"
    if "items" in schema:
        yield from rules_in(schema["items"], f"{place}[0]")
    for name, child in schema.get("properties", {}).items():
        nested = f"{place}.{name}".lstrip(".")
        yield from rules_in(child.get("items", child), f"{nested}[0]" if "items" in child else nested)


def test_every_rule_has_exactly_one_example_and_every_example_its_rule() -> None:
    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert Counter(rules_in(root)) == Counter(map(by_rule, EXAMPLES))


@pytest.mark.parametrize("example", EXAMPLES, ids=by_rule)
def test_rule_lets_its_accepted_example_pass(example: Example, apiserver: ApiServer, fleets: str) -> None:
    apiserver.api.create(fleets, changed(example.accepted), dry_run=True).ok()


@pytest.mark.parametrize("example", EXAMPLES, ids=by_rule)
def test_rule_refuses_its_broken_example_in_words_and_alone(
    example: Example, apiserver: ApiServer, fleets: str
) -> None:
    answer = apiserver.api.create(fleets, changed(example.refused), dry_run=True)
    assert answer.status == 422
    (cause,) = answer.body["details"]["causes"]
    assert cause["message"].endswith(example.shown or example.message)
    assert cause["field"].startswith(example.place) or not example.place


RANGES = [
    ("spec.engine.capacity.maxNumSeqs", 0, "should be greater than or equal to 1"),
    ("spec.engine.capacity.maxNumSeqs", 4097, "should be less than or equal to 4096"),
    ("spec.engine.tensorParallelSize", 3, 'supported values: "1"'),
    ("spec.engine.device", "tpu", 'supported values: "cpu", "cuda"'),
    ("spec.engine.resources", {"limits": {"cpu": "lots"}}, "spec.engine.resources.limits.cpu in body should match"),
    ("spec.engine.limits", {"batchWaitMilliseconds": 1001}, "should be less than or equal to 1000"),
    ("spec.slo", {}, "spec.slo.workloadClass: Required value"),
    ("spec.slo", {"workloadClass": "batch", "windowSeconds": 9}, "spec.slo.windowSeconds in body should be greater"),
    (
        "spec.schedules",
        [{"name": "a", "cron": "@daily", "durationSeconds": 60}],
        "spec.schedules[0].cron in body should",
    ),
    (
        "spec.schedules",
        [{"name": "a", "cron": "0 22 * * MON", "durationSeconds": 60}],
        "spec.schedules[0].cron in body",
    ),
    (
        "spec.schedules",
        [{"name": "a", "cron": "0 22 * * *", "durationSeconds": 0}],
        "should be greater than or equal to 60",
    ),
    ("spec.scaling", {"minReplicas": 0}, "spec.scaling.minReplicas in body should be greater than or equal to 1"),
    ("spec.replicas", -1, "spec.replicas in body should be greater than or equal to 0"),
    ("spec.replicas", "3", 'must be of type integer: "string"'),
    ("spec.drain", {"timeoutSeconds": 7201}, "spec.drain.timeoutSeconds in body should be less than or equal to 7200"),
]


@pytest.mark.parametrize(("field", "value", "words"), RANGES)
def test_value_out_of_range_is_refused_naming_field_and_bound(
    field: str, value: object, words: str, apiserver: ApiServer, fleets: str
) -> None:
    answer = apiserver.api.create(fleets, changed({field: value}), dry_run=True)
    assert answer.status == 422
    assert words in answer.message
    assert field in answer.message
