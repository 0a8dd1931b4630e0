"""A manifest as the API server returned it -> `LLMDeployment`, or every reason why it cannot be acted on.

The API server has checked types, ranges and CEL rules. What it cannot see is checked here: quantities against each other,
names that Kubernetes will refuse later in another object, and the pod template, whose content the schema does not know.
Each error names the field and its bound; the operator shows them in the condition Accepted=False.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from pydantic import JsonValue, ValidationError

from headway_operator.api.v1alpha1 import (
    GPU_RESOURCE,
    GROUP,
    Device,
    Engine,
    LLMDeployment,
    LLMDeploymentStatus,
    PodTemplate,
)

OWNED_LABELS = frozenset(f"app.kubernetes.io/{name}" for name in ("name", "instance", "managed-by"))
# Fields of the pod that the drain, the security defaults or the fleet's bookkeeping depend on.
OWNED_POD_FIELDS = frozenset(
    {
        "automountServiceAccountToken",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "nodeName",
        "restartPolicy",
        "terminationGracePeriodSeconds",
    }
)
# Fields of the container `engine` that come from spec.engine, or that the operator talks to the engine through.
OWNED_CONTAINER_FIELDS = frozenset(
    {
        "args",
        "command",
        "image",
        "imagePullPolicy",
        "livenessProbe",
        "ports",
        "readinessProbe",
        "resources",
        "startupProbe",
    }
)
ENGINE_CONTAINER = "engine"

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"(?P<number>[+-]?[0-9.]+)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9.]+)?")
_BINARY = {f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)}
_DECIMAL = {prefix: Decimal(1000) ** power for power, prefix in enumerate("num_kMGTPE", start=-3) if prefix != "_"}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong.

    Attributes:
        field: where, such as `spec.engine.resources.limits.cpu`.
        message: what, with the bound.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def parse(manifest: Mapping[str, JsonValue]) -> LLMDeployment | tuple[FieldError, ...]:
    """The model of a manifest, or everything about it that does not fit the schema.

    A status that cannot be read counts as none: another version may have written it, and it is no reason to stop.
    """
    try:
        return LLMDeployment.model_validate({**manifest, "status": parse_status(manifest)})
    except ValidationError as error:
        return tuple(
            FieldError(".".join(str(part) for part in item["loc"]), item["msg"].removeprefix("Value error, "))
            for item in error.errors(include_url=False)
        )


def parse_status(manifest: Mapping[str, JsonValue]) -> LLMDeploymentStatus:
    """The status, or an empty one when another version wrote something this one does not understand."""
    try:
        return LLMDeploymentStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        return LLMDeploymentStatus()


def problems(fleet: LLMDeployment) -> tuple[FieldError, ...]:
    """What neither the schema nor CEL could see."""
    return (*_model(fleet), *_resources(fleet.spec.engine), *_template(fleet.spec.template))


def amount(quantity: str) -> Decimal:
    """The number behind a Kubernetes quantity: `500m` is 0.5, `1Ki` is 1024."""
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"not a quantity: {quantity!r}")
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    if suffix[:1] in {"e", "E"} and len(suffix) > 1 and suffix != "Ei":
        return number * Decimal(10) ** Decimal(suffix[1:])
    return number * (_BINARY.get(suffix) or _DECIMAL.get(suffix) or Decimal(1))


def _model(fleet: LLMDeployment) -> Iterator[FieldError]:
    claim = fleet.spec.model.source.pvc
    if claim is not None and not _DNS_SUBDOMAIN.fullmatch(claim.claim_name):
        yield FieldError("spec.model.source.pvc.claimName", _not_a_name(claim.claim_name))
    references = {
        "spec.engine.image": fleet.spec.engine.image,
        "spec.model.source.image.reference": fleet.spec.model.source.image and fleet.spec.model.source.image.reference,
    }
    for field, reference in references.items():
        if reference and any(character.isspace() for character in reference):
            yield FieldError(field, f"an image reference holds no white space: {reference!r}")


def _not_a_name(value: str) -> str:
    return f"must hold only a-z, 0-9, '-' and '.', and begin and end with a letter or digit: {value!r}"


def _resources(engine: Engine) -> Iterator[FieldError]:
    requests, limits = engine.resources.requests, engine.resources.limits
    for kind, quantities in (("requests", requests), ("limits", limits)):
        for name, quantity in quantities.items():
            field = f"spec.engine.resources.{kind}.{name}"
            if amount(quantity) < 0:
                yield FieldError(field, f"must be at least 0, is {quantity}")
            elif name == GPU_RESOURCE and engine.device is Device.CUDA:
                yield from _gpus(field, quantity, engine.tensor_parallel_size)
    for name in sorted(requests.keys() & limits.keys()):
        if amount(requests[name]) > amount(limits[name]):
            field = f"spec.engine.resources.requests.{name}"
            yield FieldError(field, f"must be at most the limit {limits[name]}, is {requests[name]}")


def _gpus(field: str, quantity: str, ranks: int) -> Iterator[FieldError]:
    if amount(quantity) != ranks:
        yield FieldError(field, f"must be engine.tensorParallelSize ({ranks}) or be left out, is {quantity}")


def _template(template: PodTemplate) -> Iterator[FieldError]:
    for key, value in template.metadata.labels.items():
        field = f"spec.template.metadata.labels[{key}]"
        yield from _metadata_key(field, key)
        if not _LABEL_VALUE.fullmatch(value):
            yield FieldError(field, f"a label's value has at most 63 of A-Z, a-z, 0-9, '-', '_' and '.': {value!r}")
    for key in template.metadata.annotations:
        yield from _metadata_key(f"spec.template.metadata.annotations[{key}]", key)
    for name in sorted(OWNED_POD_FIELDS & template.spec.keys()):
        yield FieldError(f"spec.template.spec.{name}", "is set by the operator and cannot be overridden")
    for kind in ("containers", "initContainers", "volumes"):
        yield from _named_list(kind, template.spec.get(kind))


def _metadata_key(field: str, key: str) -> Iterator[FieldError]:
    prefix, slash, name = key.rpartition("/")
    if prefix == GROUP or key in OWNED_LABELS:
        yield FieldError(field, "is set by the operator and cannot be overridden")
    elif not _KEY_NAME.fullmatch(name) or (slash and not _DNS_SUBDOMAIN.fullmatch(prefix)) or len(prefix) > 253:
        yield FieldError(field, "a key is an optional DNS prefix with '/', and a name of at most 63 characters")


def _named_list(kind: str, items: JsonValue) -> Iterator[FieldError]:
    field = f"spec.template.spec.{kind}"
    if items is None:
        return
    if not isinstance(items, list):
        yield FieldError(field, "must be a list")
        return
    for index, item in enumerate(items):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str) or not name:
            yield FieldError(f"{field}[{index}].name", "is required: the list is merged by name")
        elif kind == "containers" and name == ENGINE_CONTAINER:
            for key in sorted(OWNED_CONTAINER_FIELDS & item.keys()):
                yield FieldError(f"{field}[{index}].{key}", f"is set by the operator; use {_instead(key)}")


def _instead(key: str) -> str:
    match key:
        case "image" | "imagePullPolicy" | "resources":
            return f"spec.engine.{key}"
        case "args" | "command":
            return "the fields of spec.engine"
        case _:
            return "the operator's own"
