"""From the raw LLMDeployment to its model, and the rules that the API server cannot check.

CEL sees what the user wrote; these rules see it with the defaults filled in. What fails here is answered with the
condition Accepted=False, and the fleet that runs stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway_operator.api import parse as api
from headway_operator.api.conditions import Reason
from headway_operator.api.parse import FieldError
from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec, Range, TuningMode, baseline_limits
from headway_operator.core import schedule
from headway_operator.core.observed import OwnedObject
from headway_operator.core.plan import Json, Manifest


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a spec cannot be acted on."""

    reason: Reason
    message: str


def parse(manifest: Manifest) -> LLMDeployment | Refused:
    """The LLMDeployment as a model."""
    parsed = api.parse(manifest)
    return parsed if isinstance(parsed, LLMDeployment) else _refused(parsed)


def check(fleet: LLMDeployment) -> Refused | None:
    """The rules over the spec with its defaults filled in."""
    if wrong := (*api.problems(fleet), *schedule.problems(fleet.spec)):
        return _refused(wrong)
    if refused := check_limits(fleet.spec):
        return refused
    for item in fleet.spec.schedules:
        if refused := check_limits(schedule.overlay(fleet.spec, item)):
            return Refused(refused.reason, f"in spec.schedules[{item.name}]: {refused.message}")
    return None


def check_limits(spec: LLMDeploymentSpec) -> Refused | None:
    """The rules over limits and bounds, defaults filled in."""
    scaling = spec.scaling
    if scaling.max_replicas is not None and scaling.min_replicas > scaling.max_replicas:
        return Refused(
            Reason.INVALID_SPEC,
            f"scaling.minReplicas ({scaling.min_replicas}) cannot exceed scaling.maxReplicas ({scaling.max_replicas})",
        )
    baseline = baseline_limits(spec)
    if baseline.max_num_batched_tokens < baseline.max_num_seqs:
        return Refused(
            Reason.INVALID_SPEC,
            f"spec.engine.limits.maxNumBatchedTokens ({baseline.max_num_batched_tokens}) must be at least maxNumSeqs "
            f"({baseline.max_num_seqs}): a decode step needs one token for each sequence",
        )
    if spec.tuning.mode is TuningMode.OFF:
        return None
    bounds = spec.tuning.bounds
    return _outside("maxNumSeqs", baseline.max_num_seqs, bounds.max_num_seqs) or _outside(
        "maxNumBatchedTokens", baseline.max_num_batched_tokens, bounds.max_num_batched_tokens
    )


def conflict(children: tuple[OwnedObject, ...], wanted: tuple[Mapping[str, Json], ...]) -> Refused | None:
    """An object of a child's name that is not ours; it is never touched."""
    names = {(child["kind"], _name(child)) for child in wanted}
    for found in children:
        if not found.controlled and (found.kind, found.name) in names:
            return Refused(
                Reason.NAME_CONFLICT,
                f"{found.kind} {found.name} exists and does not belong to this LLMDeployment: rename the LLMDeployment "
                "or delete that object",
            )
    return None


def _refused(wrong: Sequence[FieldError]) -> Refused:
    return Refused(Reason.INVALID_SPEC, "; ".join(map(str, wrong)))


def _outside(field: str, value: int, bounds: Range | None) -> Refused | None:
    if bounds is None or bounds.min <= value <= bounds.max:
        return None
    return Refused(
        Reason.INVALID_SPEC,
        f"spec.engine.limits.{field} ({value}) must lie inside spec.tuning.bounds.{field} ({bounds.min} to {bounds.max})",
    )


def _name(manifest: Mapping[str, Json]) -> Json:
    metadata = manifest["metadata"]
    return metadata.get("name") if isinstance(metadata, dict) else None
