"""What the API models are made of: the frozen base, CEL rules, and markers that only the CRD generator reads.

A model says everything about its field once: the type, the default, the range, the description (with the unit) and, as
`Rule`s, what the API server checks across fields. `crd.py` turns that into the schema; nothing is written twice.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule of the API server, on a model (`rules`) or on one field (`Annotated[..., Rule(...)]`).

    Attributes:
        expression: CEL; `self` is the object or the value.
        message: one sentence naming the field and its bound.
        message_expression: CEL that renders the message with the numbers in it; `message` stands in when it fails. Use
            `'... %d'.format([n])`: the API server rates `+ string(n)` as unbounded and refuses the whole CRD.
        field_path: the field, relative to `self`, that the error is reported for, such as `.limits.maxNumSeqs`.
    """

    expression: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """The OpenAPI format of an integer."""

    name: str


@dataclass(frozen=True, slots=True)
class ListMap:
    """An array merged by a key in server-side apply, so that several managers can own entries."""

    key: str


@dataclass(frozen=True, slots=True)
class IntOrString:
    """The schema takes an integer or a string of the field's pattern."""


@dataclass(frozen=True, slots=True)
class PreserveUnknown:
    """An object whose content the schema does not know; the API server keeps it as it is.

    Attributes:
        atomic: server-side apply tracks it as one value, not each field in it.
    """

    atomic: bool = False


class ApiModel(BaseModel):
    """Base of everything in the API: immutable, snake_case in Python and camelCase on the wire.

    Unknown fields are ignored: the API server prunes what the CRD does not declare, and a CRD newer than this operator
    must not stop it from serving the fields it knows.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")
    rules: ClassVar[tuple[Rule, ...]] = ()


def _to_second(moment: datetime) -> datetime:
    """Kubernetes times have whole seconds; cutting at the edge keeps what we wrote equal to what we read back."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Timestamp = Annotated[AwareDatetime, AfterValidator(_to_second), PlainSerializer(_rfc3339)]

QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    IntOrString(),
]

_NO_PARENT = r"!self.matches('(^|/)[.][.](/|$)')"
RelativePath = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(
        rf"!self.startsWith('/') && {_NO_PARENT}",
        "path must be relative to the volume and must not contain '..'",
    ),
]
AbsolutePath = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(rf"self.startsWith('/') && {_NO_PARENT}", "path must be absolute (begin with '/') and must not contain '..'"),
]
