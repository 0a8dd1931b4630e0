"""Pydantic models to the structural schema of a CustomResourceDefinition.

Kubernetes wants OpenAPI v3 without references, unions or nulls, with every default complete: the API server runs the CEL
rules of an object on its *bare* default, before it fills in the defaults inside. So an object's default is written out in
full, from the model's own default instance. An optional field is one that is absent, never null.
"""

import types
from enum import StrEnum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from headway_operator.api.base import ApiModel, Format, IntOrString, ListMap, PreserveUnknown, Rule

Schema = dict[str, Any]  # the one place where JSON of any shape is built; it leaves as YAML

_SCALARS: dict[type, str] = {str: "string", int: "integer", bool: "boolean"}


def object_schema(model: type[ApiModel]) -> Schema:
    """The schema of one model, its fields in the order they are written."""
    properties = {_wire_name(name, field): _field_schema(field) for name, field in model.model_fields.items()}
    required = sorted(_wire_name(name, field) for name, field in model.model_fields.items() if field.is_required())
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema | _validations(model.rules)


def wire_rules(rules: tuple[Rule, ...]) -> list[dict[str, str]]:
    """Rules as `x-kubernetes-validations`."""
    return [
        {"rule": rule.expression, "message": rule.message}
        | ({"messageExpression": rule.message_expression} if rule.message_expression else {})
        | ({"fieldPath": rule.field_path} if rule.field_path else {})
        for rule in rules
    ]


def _validations(rules: tuple[Rule, ...]) -> Schema:
    return {"x-kubernetes-validations": wire_rules(rules)} if rules else {}


def _wire_name(name: str, field: FieldInfo) -> str:
    return field.serialization_alias or field.alias or name


def _field_schema(field: FieldInfo) -> Schema:
    schema: Schema = {"description": field.description} if field.description else {}
    schema |= _type_schema(field.annotation, tuple(field.metadata))
    default = None if field.is_required() else _default(field.default)
    if default is not None:
        schema["default"] = default
    return schema


def _default(value: object) -> object:
    """A default as JSON; None when it says no more than the field's absence does."""
    match value:
        case BaseModel():
            return _without_empty(value.model_dump(mode="json", by_alias=True, exclude_none=True)) or None
        case StrEnum():
            return value.value
        case dict() | tuple():
            return None
        case _:
            return value


def _without_empty(value: Schema) -> Schema:
    pairs = {key: _without_empty(item) if isinstance(item, dict) else item for key, item in value.items()}
    return {key: item for key, item in pairs.items() if item not in ({}, [])}


def _type_schema(annotation: Any, metadata: tuple[object, ...]) -> Schema:  # noqa: PLR0911  (one for each kind of type)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_schema(arguments[0], (*_flat(arguments[1:]), *metadata))
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _type_schema(inner, metadata)
    if origin is Literal:
        return {"type": _SCALARS[type(arguments[0])], "enum": list(arguments)}
    if origin is tuple:
        return _array_schema(arguments[0], metadata)
    if origin is dict:
        return _map_schema(arguments[1], metadata)
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return object_schema(annotation)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return {"type": "string", "enum": [member.value for member in annotation]}
    if annotation is AwareDatetime:
        return {"type": "string", "format": "date-time"}
    return _scalar_schema(_SCALARS[annotation], metadata)


def _flat(metadata: tuple[object, ...]) -> tuple[object, ...]:
    """Metadata with a nested `Field(...)` replaced by what it says."""
    return tuple(part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else (item,)))


def _array_schema(item: Any, metadata: tuple[object, ...]) -> Schema:
    schema: Schema = {"type": "array", "items": _type_schema(item, ())}
    schema |= _longest("maxItems", metadata)
    keys = [mark.key for mark in metadata if isinstance(mark, ListMap)]
    if keys:
        return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
    return schema | {"x-kubernetes-list-type": "atomic"}


def _map_schema(value: Any, metadata: tuple[object, ...]) -> Schema:
    for mark in metadata:
        if isinstance(mark, PreserveUnknown):
            schema: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            return schema | ({"x-kubernetes-map-type": "atomic"} if mark.atomic else {})
    schema = {"type": "object", "additionalProperties": _type_schema(value, ())}
    return schema | _longest("maxProperties", metadata)


def _longest(keyword: str, metadata: tuple[object, ...]) -> Schema:
    lengths = [mark.max_length for mark in metadata if isinstance(mark, MaxLen)]
    return {keyword: lengths[-1]} if lengths else {}


def _scalar_schema(kind: str, metadata: tuple[object, ...]) -> Schema:
    schema: Schema = {"type": kind}
    for mark in metadata:
        match mark:
            case Format():
                schema["format"] = mark.name
            case Ge():
                schema["minimum"] = mark.ge
            case Le():
                schema["maximum"] = mark.le
            case MinLen():
                schema["minLength"] = mark.min_length
            case MaxLen():
                schema["maxLength"] = mark.max_length
            case _ if getattr(mark, "pattern", None):  # pydantic keeps `pattern` in an object without a public type
                schema["pattern"] = getattr(mark, "pattern")  # noqa: B009  (as above)
    if any(isinstance(mark, IntOrString) for mark in metadata):
        del schema["type"]
        schema |= {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    return schema | _validations(tuple(mark for mark in metadata if isinstance(mark, Rule)))
