"""Where each limit of a fleet comes from: the user's own words, the workload class, or the capacity."""

from collections.abc import Iterator

from headway_cli.cluster import Json
from headway_operator.api import class_defaults
from headway_operator.api.parse import parse
from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec, baseline_limits


def lines(manifest: Json) -> Iterator[str]:
    """A heading and a line for each source with the limits that it sets; nothing for a spec that cannot be read."""
    fleet = parse(manifest)
    if not isinstance(fleet, LLMDeployment):
        return
    found: dict[str, list[str]] = {}
    values = baseline_limits(fleet.spec).model_dump(mode="json", by_alias=True)
    for field, value in values.items():
        found.setdefault(origin(fleet.spec, field), []).append(f"{field} {value}")
    yield "Limits of the spec"
    for source, limits in found.items():
        yield f"  from {source}: {', '.join(limits)}"


def origin(spec: LLMDeploymentSpec, field: str) -> str:
    """What a baseline limit follows from; `field` as it is written in `status.tuning.effective`."""
    kind = spec.slo.workload_class if spec.slo else None
    named = f"class {kind.value}" if kind else "the defaults without an slo"
    if field == "itlTargetMilliseconds":
        given = spec.slo is not None and spec.slo.inter_token_latency is not None
        return "slo.interTokenLatency" if given else named
    if field in spec.engine.limits.model_dump(by_alias=True, exclude_none=True):
        return "engine.limits"
    defaults = class_defaults.of_class(kind)
    if field == "maxNumSeqs" and defaults.max_num_seqs is None:
        return "engine.capacity"
    if field == "maxNumBatchedTokens" and defaults.max_num_batched_tokens is None:
        return "engine.capacity"
    return named
