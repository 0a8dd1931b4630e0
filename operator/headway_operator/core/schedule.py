"""`spec.schedules`: which windows are open, and the spec that holds while they are.

Windows that overlap are laid over the spec in the order of the list: for each field the last open window that sets it
wins. Everything follows from the spec and the time, so a restart inside a window needs no memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headway_operator.api.parse import FieldError
from headway_operator.api.spec_schedule import Schedule
from headway_operator.api.v1alpha1 import LLMDeploymentSpec, ScalingMode, ScheduleStatus, ScheduleWindow
from headway_operator.core import cron


@dataclass(frozen=True, slots=True)
class Effective:
    """The spec now, and what the status says of it (None without schedules)."""

    spec: LLMDeploymentSpec
    status: ScheduleStatus | None


def effective(spec: LLMDeploymentSpec, now: datetime) -> Effective:
    """The spec with its open windows laid over it; for schedules without `problems`."""
    if not spec.schedules:
        return Effective(spec, None)
    active: list[ScheduleWindow] = []
    changes: list[datetime] = []
    result = spec
    for item in spec.schedules:
        length = timedelta(seconds=item.duration_seconds)
        begun: datetime | None = None
        for start in cron.starts(cron.parse(item.cron), ZoneInfo(item.time_zone), now - length):
            if start > now:
                changes.append(start)
                break
            begun = start
        if begun is not None:
            changes.append(begun + length)
            active.append(ScheduleWindow(name=item.name, since=begun, until=begun + length))
            result = overlay(result, item)
    return Effective(result, ScheduleStatus(active=tuple(active), next_change_time=min(changes, default=None)))


def overlay(spec: LLMDeploymentSpec, item: Schedule) -> LLMDeploymentSpec:
    """The spec inside one window."""
    limits = item.limits.model_dump(exclude_none=True)
    engine = spec.engine.model_copy(update={"limits": spec.engine.limits.model_copy(update=limits)})
    scaling = spec.scaling.model_copy(update=item.scaling.model_dump(exclude_none=True))
    replicas = spec.replicas if item.replicas is None else item.replicas
    return spec.model_copy(update={"engine": engine, "scaling": scaling, "replicas": replicas})


def problems(spec: LLMDeploymentSpec) -> Iterator[FieldError]:
    """What is wrong with each schedule on its own."""
    for item in spec.schedules:
        field = f"spec.schedules[{item.name}]"
        yield from _when(field, item)
        yield from _what(field, item, spec)


def _when(field: str, item: Schedule) -> Iterator[FieldError]:
    try:
        ZoneInfo(item.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield FieldError(f"{field}.timeZone", f"is no time zone known here: {item.time_zone!r}")
    try:
        period_s = cron.shortest_period_s(cron.parse(item.cron))
    except ValueError as error:
        yield FieldError(f"{field}.cron", str(error))
        return
    if item.duration_seconds > period_s:
        text = f"must be at most the {period_s} s from one start to the next, is {item.duration_seconds}"
        yield FieldError(f"{field}.durationSeconds", text)


def _what(field: str, item: Schedule, spec: LLMDeploymentSpec) -> Iterator[FieldError]:
    manual = spec.scaling.mode in (ScalingMode.OFF, ScalingMode.ADVISORY)
    if item.replicas is not None and not (manual and spec.replicas is not None):
        yield FieldError(
            f"{field}.replicas", "needs scaling.mode Off or Advisory, and spec.replicas to return to after the window"
        )
    inside = overlay(spec, item)
    scaling, capacity = inside.scaling, spec.engine.capacity
    if scaling.max_replicas is not None and scaling.min_replicas > scaling.max_replicas:
        text = f"minReplicas {scaling.min_replicas} cannot exceed maxReplicas {scaling.max_replicas} in the window"
        yield FieldError(f"{field}.scaling", text)
    for name, value, most in (
        ("maxNumSeqs", item.limits.max_num_seqs, capacity.max_num_seqs),
        ("maxNumBatchedTokens", item.limits.max_num_batched_tokens, capacity.max_num_batched_tokens),
        ("maxQueuedRequests", item.limits.max_queued_requests, capacity.max_queued_requests),
    ):
        if value is not None and value > most:
            yield FieldError(f"{field}.limits.{name}", f"cannot exceed engine.capacity.{name} ({most}), is {value}")
