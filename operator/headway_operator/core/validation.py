"""From the raw LLMDeployment to its model, and the rules that the API server cannot check.

CEL sees what the user wrote; these rules see it with the defaults filled in. What fails here is answered with the
condition Accepted=False, and the fleet runs with the spec that was accepted last, which the status keeps. Only `paused` is
taken from a refused spec: it stops everything, so it must not wait for the rest to be right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway_operator.api import parse as api
from headway_operator.api.conditions import Reason
from headway_operator.api.parse import FieldError
from headway_operator.api.v1alpha1 import LLMDeployment
from headway_operator.core import schedule
from headway_operator.core.limit_rules import contradictions, in_window
from headway_operator.core.observed import OwnedObject
from headway_operator.core.plan import Json, Manifest

REFUSALS = frozenset({Reason.INVALID_SPEC.value, Reason.NAME_CONFLICT.value})


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a spec cannot be acted on."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Judged:
    """The fleet with the spec to run and that spec's generation; `refused`: why it is not the user's spec."""

    fleet: LLMDeployment
    refused: Refused | None = None


def judge(manifest: Manifest) -> Judged | Refused:
    """The spec to run: the user's, else the one that was accepted last; refused when there is none."""
    fleet = sound(manifest)
    if isinstance(fleet, LLMDeployment):
        return Judged(fleet)
    last = api.parse_status(manifest).last_accepted
    if last is None:
        return fleet
    spec, metadata = manifest.get("spec"), manifest.get("metadata")
    paused = isinstance(spec, dict) and spec.get("paused") is True
    before = sound(
        {
            **manifest,
            "metadata": {**(metadata if isinstance(metadata, dict) else {}), "generation": last.generation},
            "spec": {**last.spec, "paused": paused},
        }
    )
    # Another version of the operator may have accepted what this one refuses.
    return Judged(before, fleet) if isinstance(before, LLMDeployment) else fleet


def sound(manifest: Manifest) -> LLMDeployment | Refused:
    """The LLMDeployment as a model that can be acted on."""
    fleet = parse(manifest)
    return fleet if isinstance(fleet, Refused) else check(fleet) or fleet


def parse(manifest: Manifest) -> LLMDeployment | Refused:
    """The LLMDeployment as a model."""
    parsed = api.parse(manifest)
    return parsed if isinstance(parsed, LLMDeployment) else _refused(parsed)


def check(fleet: LLMDeployment) -> Refused | None:
    """The rules over the spec with its defaults filled in."""
    if wrong := (*api.problems(fleet), *schedule.problems(fleet.spec)):
        return _refused(wrong)
    if wrong := tuple(contradictions(fleet.spec)):
        return _refused(wrong)
    wrong = tuple(
        error
        for item in fleet.spec.schedules
        for error in contradictions(schedule.overlay(fleet.spec, item), in_window(item.name))
    )
    return _refused(wrong) if wrong else None


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


def _name(manifest: Mapping[str, Json]) -> Json:
    metadata = manifest["metadata"]
    return metadata.get("name") if isinstance(metadata, dict) else None
