"""Where each limit of a fleet comes from: the user's own words, an open window, the workload class, or the capacity."""

from collections.abc import Iterator

from headway_cli.cluster import Json
from headway_operator.api import class_defaults
from headway_operator.api.parse import parse
from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec, Slo, baseline_limits
from headway_operator.core.schedule import overlay


def lines(manifest: Json) -> Iterator[str]:
    """A heading and a line for each source with the limits that it sets; nothing for a spec that cannot be read."""
    fleet = parse(manifest)
    if not isinstance(fleet, LLMDeployment):
        return
    active = [window.name for window in fleet.status.schedule.active] if fleet.status.schedule else []
    spec, windows = fleet.spec, dict[str, str]()
    for item in (one for one in fleet.spec.schedules if one.name in active):
        spec = overlay(spec, item)
        windows |= dict.fromkeys(item.limits.model_dump(by_alias=True, exclude_none=True), f"window {item.name}")
    found: dict[str, list[str]] = {}
    for field, value in baseline_limits(spec).model_dump(mode="json", by_alias=True).items():
        found.setdefault(windows.get(field) or origin(spec, field, value), []).append(f"{field} {value}")
    yield "Limits of the spec"
    for source, limits in found.items():
        yield f"  from {source}: {', '.join(limits)}"


def _written_target(slo: Slo, field: str, value: object) -> str | None:
    """The part of the slo that a limit is a target of; None for other limits and where the class brings the target."""
    for one in slo.objectives:
        for name, part, target in (
            ("ItlTargetMilliseconds", "slo.interTokenLatency", one.inter_token_latency),
            ("TtftTargetMilliseconds", "slo.ttft", one.ttft),
        ):
            fields = f"{name[0].lower()}{name[1:]}", f"{one.workload_class.value}{name}"
            if field in fields and target is not None and target.target_milliseconds == value:
                return part
    return None


def origin(spec: LLMDeploymentSpec, field: str, value: object) -> str:
    """What a baseline limit follows from; `field` and `value` as they are written in `status.tuning.effective`."""
    slo = spec.slo
    kinds = [one.workload_class.value for one in slo.objectives] if slo else []
    named = "the defaults without an slo"
    if kinds:
        named = f"class {kinds[0]}" if len(kinds) == 1 else f"classes {', '.join(kinds)}"
    if slo is not None and (part := _written_target(slo, field, value)) is not None:
        return part
    if field == "batchDeadlineSeconds" and slo is not None and slo.batch_deadline_seconds is not None:
        return "slo.deadlineSeconds"
    if field == "defaultClass" and slo is not None:
        return "slo.workloadClass"
    if field in spec.engine.limits.model_dump(by_alias=True, exclude_none=True):
        return "engine.limits"
    defaults = class_defaults.of_slo(slo)
    at_capacity = {
        "maxNumSeqs": defaults.max_num_seqs is None,
        "maxNumBatchedTokens": defaults.max_num_batched_tokens is None,
    }
    return "engine.capacity" if at_capacity.get(field) else named
