"""docs/reference/llmdeployment.md from the CRD: `python -m headway_operator.api.reference`.

The page is a view of the schema that the API server enforces, so it cannot promise a field or a bound that is not there.
"""

import sys
from collections.abc import Iterator

from headway_operator.api.conditions import MEANINGS
from headway_operator.api.crd import crd
from headway_operator.api.schema import Schema
from headway_operator.api.v1alpha1 import API_VERSION, KIND

INTRODUCTION = f"""<!-- Generated from operator/headway_operator/api by `python -m headway_operator.api.reference`. Do not edit. -->
# {KIND} ({API_VERSION})

A fleet of engines that serves one model within a latency objective. Short name `llmdep`, category `inference`.
Commented examples: `deploy/examples/`. A field in **bold** is required in its object.
"""


def render() -> str:
    """The whole page."""
    root: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    lines = [INTRODUCTION]
    for part in ("spec", "status"):
        lines += [f"## {part}", "", "| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [*_rows(root["properties"][part], part), ""]
    lines += ["## Rules", "", "What the API server checks across fields, with the sentence it answers.", ""]
    lines += [*_rules(root, ""), ""]
    lines += ["## Conditions", "", "| type | meaning |", "| --- | --- |"]
    lines += [f"| `{kind.value}` | {meaning} |" for kind, meaning in MEANINGS.items()]
    return "\n".join(lines) + "\n"


def _rows(schema: Schema, path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        shown = f"**{name}**" if name in required else name
        nested = field.get("items", field)
        default = f"`{_scalar(field['default'])}`" if not isinstance(field.get("default", {}), dict) else ""
        meaning = field.get("description", "").replace("|", "\\|")
        yield f"| {path}.{shown} | {_type(field)} | {default} | {meaning} |"
        yield from _rows(nested, f"{path}.{name}{'[]' if 'items' in field else ''}")


def _scalar(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(field: Schema) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    if "items" in field:
        return f"list, at most {field['maxItems']}" if "maxItems" in field else "list"
    if "anyOf" in field:
        return "quantity"
    return f"{field['type']}{_bounds(field)}"


def _bounds(field: Schema) -> str:
    match field.get("minimum"), field.get("maximum"):
        case None, None:
            return ""
        case low, None:
            return f", at least {low}"
        case None, high:
            return f", at most {high}"
        case low, high:
            return f", {low} to {high}"


def _rules(schema: Schema, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"- `{path or 'metadata.name'}`: {rule['message']}"
    for name, field in schema.get("properties", {}).items():
        inside = f"{path}.{name}".lstrip(".")
        yield from _rules(field.get("items", field), f"{inside}[]" if "items" in field else inside)


if __name__ == "__main__":
    sys.stdout.write(render())
