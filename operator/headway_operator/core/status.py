"""The status of a fleet, written only when a reader would see a difference.

Measured numbers move with every sample. They are rounded to two digits, replaced when one of them has moved by a twentieth
or more, and at most every five seconds; sentences with numbers in them are renewed together with them. What was decided is
written at once. So a busy fleet costs a write in five seconds at most, and an idle one none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from headway_operator.api.conditions import ConditionType, Reason, set_condition, set_conditions
from headway_operator.api.v1alpha1 import (
    AcceptedSpec,
    ClassStatus,
    Condition,
    DeadlineStatus,
    LLMDeploymentStatus,
    SloStatus,
    SymptomStatus,
)
from headway_operator.core import desired, findings, names, objectives, scaling, tuning, watch
from headway_operator.core.deadlines import Outlook
from headway_operator.core.load import FleetLoad
from headway_operator.core.memory import remembered
from headway_operator.core.objectives import ClassLoad
from headway_operator.core.plan import Json
from headway_operator.core.view import Situation

OBSERVATION_INTERVAL_S = 5.0
MATERIAL_LATENCY = 0.05  # shares of change that a reader would care about
MATERIAL_RATE = 0.1
MATERIAL_COUNT = 0.25
OWN_TYPES = frozenset(kind.value for kind in ConditionType)


def next_status(situation: Situation) -> LLMDeploymentStatus:
    """The status after this pass."""
    fleet, now = situation.fleet, situation.observed.now
    before = fleet.status
    judgement = situation.verdict.judgement
    classes = () if judgement is None else tuple(map(_class, judgement.loads))
    apart = _Apart(classes, None if situation.outlook is None else _deadline(situation.outlook))
    slo = _slo(before.slo, situation.load, apart, now - timedelta(seconds=_sample_age_s(situation)), now)
    refresh = slo != before.slo
    symptoms = watch.symptoms_of(situation, refresh)
    return LLMDeploymentStatus(
        observed_generation=situation.observed.generation,
        last_accepted=_accepted(situation),
        model=fleet.model_name,
        endpoint=desired.endpoint(fleet),
        replicas=len(situation.live),
        ready_replicas=len(situation.serving),
        updated_replicas=len(situation.updated),
        selector=names.selector(fleet.metadata.name),
        slo=slo,
        scaling=scaling.status_of(fleet, situation.replicas, now, refresh),
        tuning=tuning.status_of(fleet, situation.limits, len(situation.confirmed), now, refresh),
        demand=remembered(situation.memory, before.demand, now, objectives.deadline_s(fleet.spec.slo)),
        schedule=situation.schedule,
        symptoms=symptoms,
        conditions=_conditions(situation, slo, symptoms),
    )


def _accepted(situation: Situation) -> AcceptedSpec | None:
    """The spec that runs, without what open windows lay over it."""
    refused, spec = situation.refused, situation.observed.manifest["spec"]
    if (refused is not None and refused.reason is Reason.INVALID_SPEC) or not isinstance(spec, dict):
        return situation.fleet.status.last_accepted
    return AcceptedSpec(generation=situation.observed.generation, spec=spec)


def _conditions(
    situation: Situation, slo: SloStatus | None, symptoms: Sequence[SymptomStatus]
) -> tuple[Condition, ...]:
    """Our conditions, each with the generation of the spec that it speaks of. Conditions of other managers stay theirs."""
    fleet, now = situation.fleet, situation.observed.now
    found = (*findings.findings(situation, slo), watch.healthy(situation, symptoms))
    conditions = set_conditions(own_conditions(fleet.status), found, fleet.metadata.generation, now)
    accepted = findings.accepted(situation.refused, situation.earlier)
    return set_condition(conditions, accepted, situation.observed.generation, now)


def own_conditions(status: LLMDeploymentStatus) -> tuple[Condition, ...]:
    """The conditions that this operator writes."""
    return tuple(condition for condition in status.conditions if condition.type in OWN_TYPES)


def to_json(status: LLMDeploymentStatus) -> dict[str, Json]:
    """The status as it goes to the API server."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def differs(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> bool:
    """Whether there is anything to write."""
    ours = before.model_copy(update={"conditions": own_conditions(before)})
    return to_json(ours) != to_json(after)


def _sample_age_s(situation: Situation) -> float:
    last_s = situation.load.last_sample_s
    return 0.0 if last_s is None else max(0.0, situation.observed.monotonic_s - last_s)


@dataclass(frozen=True, slots=True)
class _Apart:
    """What is measured of each class, and of the work with a deadline."""

    classes: tuple[ClassStatus, ...]
    deadline: DeadlineStatus | None


def _class(load: ClassLoad) -> ClassStatus:
    deadline = load.objective.deadline_seconds is not None
    return ClassStatus(
        workload_class=load.kind,
        ttft_observed_milliseconds=_rounded(load.ttft.high_ms),
        ttft_target_milliseconds=None if deadline else load.objective.ttft_target.target_milliseconds,
        inter_token_latency_observed_milliseconds=_rounded(load.itl.high_ms),
        inter_token_latency_target_milliseconds=load.objective.inter_token_latency_target.target_milliseconds,
        # Rounded down, so that 100 means every one.
        attainment_percent=None if deadline or load.attainment is None else int(100 * load.attainment + 1e-9),
        sample_count=load.ttft.count,
    )


def _deadline(seen: Outlook) -> DeadlineStatus:
    return DeadlineStatus(
        seconds=round(seen.deadline_s),
        waiting_requests=seen.waiting,
        done_in_seconds=_signed(seen.done_s),
        spare_seconds=_signed(seen.spare_s),
        needed_replicas=seen.replicas,
        finished_count=seen.finished,
        late_count=seen.late,
    )


def _slo(
    before: SloStatus | None, load: FleetLoad, apart: _Apart, sampled: datetime, now: datetime
) -> SloStatus | None:
    """The block of measurements: the one from before unless it is old and has changed materially."""
    if load.last_sample_s is None:
        return before  # nobody answers: the last known numbers, with their time
    view = load.view
    ttft = _rounded(view.ttft.high_ms)
    fresh = SloStatus(
        ttft_observed=None if ttft is None else f"{ttft}ms",
        ttft_observed_milliseconds=ttft,
        inter_token_latency_observed_milliseconds=_rounded(view.itl.high_ms),
        tokens_per_second=_rounded(load.tokens_per_s) if load.tokens_per_s >= 0.5 else 0,
        queue_depth=load.queue_depth,
        sample_count=view.ttft.count,
        last_sample_time=sampled,
        classes=apart.classes,
        deadline=apart.deadline,
    )
    if before is None or before.last_sample_time is None:
        return fresh
    recent = 0 <= (now - before.last_sample_time).total_seconds() < OBSERVATION_INTERVAL_S
    return before if recent or not _material(before, fresh) else fresh


def _material(before: SloStatus, after: SloStatus) -> bool:
    return (
        _measured_moved(before, after)
        or _moved(before.tokens_per_second, after.tokens_per_second, MATERIAL_RATE)
        or _moved(before.queue_depth, after.queue_depth, MATERIAL_COUNT)
        or _classes_moved(before.classes, after.classes)
        or _deadline_moved(before.deadline, after.deadline)
    )


def _classes_moved(before: Sequence[ClassStatus], after: Sequence[ClassStatus]) -> bool:
    if [one.workload_class for one in before] != [one.workload_class for one in after]:
        return True
    return any(
        _targets(old) != _targets(new)
        or _measured_moved(old, new)
        or _moved(old.attainment_percent, new.attainment_percent, MATERIAL_LATENCY)
        for old, new in zip(before, after, strict=True)
    )


def _deadline_moved(old: DeadlineStatus | None, new: DeadlineStatus | None) -> bool:
    if old is None or new is None:
        return old != new
    return (
        (old.seconds, old.needed_replicas, old.late_count) != (new.seconds, new.needed_replicas, new.late_count)
        or _moved(old.waiting_requests, new.waiting_requests, MATERIAL_COUNT)
        or _moved(old.done_in_seconds, new.done_in_seconds, MATERIAL_COUNT)
        or _below(old.spare_seconds) != _below(new.spare_seconds)
    )


def _below(spare: int | None) -> bool:
    return spare is not None and spare < 0


def _measured_moved(old: SloStatus | ClassStatus, new: SloStatus | ClassStatus) -> bool:
    """Whether the figures moved that a fleet and a class both have."""
    itl = old.inter_token_latency_observed_milliseconds, new.inter_token_latency_observed_milliseconds
    return (
        _moved(old.ttft_observed_milliseconds, new.ttft_observed_milliseconds, MATERIAL_LATENCY)
        or _moved(*itl, MATERIAL_LATENCY)
        or _moved(old.sample_count, new.sample_count, MATERIAL_COUNT)
    )


def _targets(one: ClassStatus) -> tuple[int | None, int]:
    return one.ttft_target_milliseconds, one.inter_token_latency_target_milliseconds


def _moved(before: int | None, after: int | None, share: float) -> bool:
    if before is None or after is None or before == 0 or after == 0:
        return before != after
    return abs(after - before) >= share * before


def _signed(value: float | None) -> int | None:
    """Two significant digits of a value that may be 0 or less; None for one that is not known or infinite."""
    if value is None or not math.isfinite(value):
        return None
    size = _rounded(abs(value)) if abs(value) >= 0.5 else 0
    return None if size is None else size if value >= 0 else -size


def _rounded(value: float | None) -> int | None:
    """Two significant digits: 431.7 becomes 430, 87.4 becomes 87."""
    if value is None:
        return None
    unit = 1
    while value / unit >= 100:
        unit *= 10
    return max(1, round(value / unit)) * unit
