"""`spec.schedules`: which windows are open, and the spec that holds while they are.

Windows that overlap are laid over the spec in the order of the list: for each field the last open window that sets it
wins. One that contradicts what is laid already is set aside while that is so, and the fleet goes on with the others.
Everything follows from the spec and the time, so a restart inside a window needs no memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headway_operator.api.parse import FieldError
from headway_operator.api.spec_schedule import Schedule
from headway_operator.api.v1alpha1 import (
    LLMDeploymentSpec,
    ScalingMode,
    ScheduleSetAside,
    ScheduleStatus,
    ScheduleWindow,
)
from headway_operator.core import cron
from headway_operator.core.limit_rules import contradictions, in_window


@dataclass(frozen=True, slots=True)
class Effective:
    """The spec now, and what the status says of it (None without schedules)."""

    spec: LLMDeploymentSpec
    status: ScheduleStatus | None


def effective(spec: LLMDeploymentSpec, now: datetime) -> Effective:
    """The spec with its open windows laid over it; for schedules without `problems`."""
    if not spec.schedules:
        return Effective(spec, None)
    changes: list[datetime] = []
    result, held = spec, list[Schedule]()
    sound = not any(contradictions(spec))  # one that is not is refused as it is, and no window is to blame
    active: list[ScheduleWindow] = []
    aside: list[ScheduleSetAside] = []
    for item in spec.schedules:
        begun, change = _now(item, now)
        changes += [] if change is None else [change]
        if begun is None:
            continue
        until = begun + timedelta(seconds=item.duration_seconds)
        inside = overlay(result, item)
        if sound and (wrong := tuple(contradictions(inside, in_window(item.name)))):
            others = ", ".join(_opponents(spec, held, item))
            aside.append(
                ScheduleSetAside(name=item.name, until=until, message=f"with window {others} open, {wrong[0]}")
            )
            continue
        result = inside
        held.append(item)
        words = tuple(f"{field} {value}" for field, value in overrides(item).items())
        active.append(ScheduleWindow(name=item.name, since=begun, until=until, overrides=words))
    status = ScheduleStatus(active=tuple(active), set_aside=tuple(aside), next_change_time=min(changes, default=None))
    return Effective(result, status)


def set_aside(status: ScheduleStatus | None) -> tuple[ScheduleSetAside, ...]:
    """The open windows that do not hold, because they contradict others."""
    return status.set_aside if status is not None else ()


def overrides(item: Schedule) -> dict[str, object]:
    """What a window sets, by the field's path in it, such as `limits.maxNumSeqs`."""
    found: dict[str, object] = {} if item.replicas is None else {"replicas": item.replicas}
    for part, values in (("scaling", item.scaling), ("limits", item.limits)):
        dumped = values.model_dump(mode="json", by_alias=True, exclude_none=True)
        found |= {f"{part}.{field}": value for field, value in dumped.items()}
    return found


def gives_way_to(spec: LLMDeploymentSpec, item: Schedule) -> tuple[str, ...]:
    """The windows earlier in the list that `item` contradicts: it is set aside while one of them is open."""
    earlier = takewhile(lambda one: one.name != item.name, spec.schedules)
    return tuple(one.name for one in earlier if any(contradictions(overlay(overlay(spec, one), item))))


def naming(reason: str, status: ScheduleStatus | None, *fields: str) -> str:
    """A reason with the open windows that set one of `fields` (beginnings of their paths)."""
    sets = [
        f"window {window.name} sets {', '.join(found)}"
        for window in (status.active if status is not None else ())
        if (found := [words for words in window.overrides if words.startswith(fields)])
    ]
    return "; ".join([reason, *sets])


def _now(item: Schedule, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When the open window began (None: none is open), and when it ends or the next one begins (None: never)."""
    length = timedelta(seconds=item.duration_seconds)
    begun: datetime | None = None
    for start in cron.starts(cron.parse(item.cron), ZoneInfo(item.time_zone), now - length):
        if start > now:
            return begun, start if begun is None else min(start, begun + length)
        begun = start
    return begun, None if begun is None else begun + length


def _opponents(spec: LLMDeploymentSpec, held: Sequence[Schedule], item: Schedule) -> list[str]:
    """The open windows that `item` contradicts: those that do it alone, or all of them together."""
    names = [one.name for one in held]
    return [name for name in gives_way_to(spec, item) if name in names] or names


def overlay(spec: LLMDeploymentSpec, item: Schedule) -> LLMDeploymentSpec:
    """The spec inside one window."""
    limits = item.limits.model_dump(exclude_none=True)
    engine = spec.engine.model_copy(update={"limits": spec.engine.limits.model_copy(update=limits)})
    scaling = spec.scaling.model_copy(update=item.scaling.model_dump(exclude_none=True))
    replicas = spec.replicas if item.replicas is None else item.replicas
    return spec.model_copy(update={"engine": engine, "scaling": scaling, "replicas": replicas})


def problems(spec: LLMDeploymentSpec) -> Iterator[FieldError]:
    """What is wrong with each schedule on its own; limits and bounds in it are `limit_rules`' matter."""
    for item in spec.schedules:
        field = f"spec.schedules[{item.name}]"
        yield from _when(field, item)
        yield from _count(field, item, spec)


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


def _count(field: str, item: Schedule, spec: LLMDeploymentSpec) -> Iterator[FieldError]:
    manual = spec.scaling.mode in (ScalingMode.OFF, ScalingMode.ADVISORY)
    if item.replicas is not None and not (manual and spec.replicas is not None):
        yield FieldError(
            f"{field}.replicas", "needs scaling.mode Off or Advisory, and spec.replicas to return to after the window"
        )
