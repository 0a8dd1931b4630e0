"""What changed in this pass that a user should be able to read later: Events, each once.

They are found by comparing the status before and after, so a pass that changes nothing says nothing.
"""

from collections.abc import Iterable

from headway_operator.api.conditions import ConditionType, Reason, find
from headway_operator.api.v1alpha1 import Condition, LLMDeploymentStatus, ScheduleWindow
from headway_operator.core import tuning
from headway_operator.core.plan import Emit

ORDINARY = frozenset({Reason.STARTING.value, Reason.ROLLING_OUT.value, Reason.DELETING.value})
WARNED = (ConditionType.ACCEPTED, ConditionType.READY, ConditionType.METRICS_AVAILABLE, ConditionType.TUNING_APPLIED)


def events(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> tuple[Emit, ...]:
    """The Events of one pass; what two conditions say with the same words is said once."""
    found = (
        *_windows(before, after),
        *_scaled(before, after),
        *_tuned(before, after),
        *_conditions(before, after),
        *_symptoms(before, after),
    )
    return tuple(dict.fromkeys(found))


def _windows(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> Iterable[Emit]:
    old = {window.name: window for window in before.schedule.active} if before.schedule else {}
    new = {window.name: window for window in after.schedule.active} if after.schedule else {}
    for name in sorted(old.keys() - new.keys()):
        yield Emit("Normal", "ScheduleEnded", _sentence(f"window {name} has ended", old[name], "no longer hold"))
    for name in sorted(new.keys() - old.keys()):
        yield Emit(
            "Normal",
            "ScheduleBegan",
            _sentence(f"window {name} is open until {new[name].until:%Y-%m-%dT%H:%M:%SZ}", new[name], "hold"),
        )


def _sentence(what: str, window: ScheduleWindow, verb: str) -> str:
    return f"{what}: {', '.join(window.overrides)} {verb}" if window.overrides else what


def _symptoms(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> Iterable[Emit]:
    old, new = ({one.name: one for one in status.symptoms} for status in (before, after))
    for name in sorted(new.keys() - old.keys()):
        yield Emit("Warning", name, f"{new[name].message}. Cure: {new[name].cure}")
    for name in sorted(old.keys() - new.keys()):
        yield Emit("Normal", "SymptomEnded", f"{name} has not shown again; it began at {old[name].since:%H:%M:%SZ}")


def _scaled(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> Iterable[Emit]:
    old = before.scaling.desired_replicas if before.scaling else None
    new = after.scaling.desired_replicas if after.scaling else None
    if old is None or new is None or old == new or after.scaling is None:
        return
    word = "ScaledUp" if new > old else "ScaledDown"
    yield Emit("Normal", word, f"{old} -> {new} replicas: {after.scaling.reason}")


def _tuned(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> Iterable[Emit]:
    old = before.tuning.effective if before.tuning else None
    new = after.tuning.effective if after.tuning else None
    if old is None or new is None or old == new or after.tuning is None:
        return
    yield Emit("Normal", "LimitsChanged", told_once(tuning.changes(old, new), after.tuning.reason or ""))


def told_once(change: str, reason: str) -> str:
    """What was changed and why; the policy's reasons end with what it changes."""
    return reason if reason.endswith(change) else f"{change}: {reason}"


def _conditions(before: LLMDeploymentStatus, after: LLMDeploymentStatus) -> Iterable[Emit]:
    for kind in WARNED:
        old, new = find(before.conditions, kind), find(after.conditions, kind)
        if new is None or (old is not None and _meaning(old) == _meaning(new)):
            continue
        if new.status == "False" and new.reason not in ORDINARY:
            yield Emit("Warning", new.reason, new.message)
        elif kind is ConditionType.READY and new.status == "True" and (old is None or old.status != "True"):
            yield Emit("Normal", "Ready", new.message)


def _meaning(condition: Condition) -> tuple[str, ...]:
    """What makes a condition another one; a spec that is refused for something else is worth a word of its own."""
    words = condition.message if condition.type == ConditionType.ACCEPTED else ""
    return condition.status, condition.reason, words
