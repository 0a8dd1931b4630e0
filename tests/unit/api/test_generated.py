"""The generated files agree with the models, and the schema is what Kubernetes asks of one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headway_operator.api import crd, reference
from headway_operator.api.conditions import ConditionType

ROOT = Path(__file__).parents[3]
SCHEMA: dict[str, Any] = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field.get("items", field), f"{path}.{name}")


def test_crd_file_is_up_to_date() -> None:
    assert (ROOT / "deploy/crd/llmdeployments.yaml").read_text() == crd.render(), "run `make crd`"


def test_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs/reference/llmdeployment.md").read_text()
    assert page == reference.render(), (
        "run `python -m headway_operator.api.reference > docs/reference/llmdeployment.md`"
    )


def test_yaml_reads_back_as_the_same_object() -> None:
    assert yaml.safe_load(crd.render()) == crd.crd()


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_has_a_description(part: str) -> None:
    bare = [path for path, field in fields(SCHEMA["properties"][part]) if not field.get("description")]
    assert bare == []


def test_every_number_of_the_spec_has_both_bounds() -> None:
    """CEL's cost estimate and the engine's 32-bit fields both need them."""
    numbers = [(path, field) for path, field in fields(SCHEMA["properties"]["spec"]) if field.get("type") == "integer"]
    assert numbers
    assert [path for path, field in numbers if not {"minimum", "maximum"} <= field.keys() and "enum" not in field] == []


def test_durations_and_sizes_name_their_unit() -> None:
    suspicious = ("timeout", "window", "period", "cooldown", "lease", "delay", "wait", "memory", "target", "age")
    names = [path.rsplit(".", 1)[-1] for path, field in fields(SCHEMA["properties"]["spec"]) if "minimum" in field]
    timed = [name for name in names if any(word in name.lower() for word in suspicious) and "Replicas" not in name]
    assert timed
    assert [name for name in timed if not name.endswith(("Seconds", "Milliseconds", "Mebibytes"))] == []


def test_printer_columns_point_at_fields_that_exist() -> None:
    known = {path for path, _ in fields(SCHEMA)} | {".metadata.creationTimestamp"}
    columns = crd.crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    plain = {column["jsonPath"] for column in columns if "[?" not in column["jsonPath"]}
    assert plain <= known
    filtered = {column["jsonPath"].split('"')[1] for column in columns if "[?" in column["jsonPath"]}
    assert filtered <= {kind.value for kind in ConditionType}
