"""Symptoms over time: when one begins, when it ends, and what the condition `Healthy` says.

A symptom begins with the first pass in which its rule holds; the rule looks at a whole window, so a moment is not enough.
It ends when the rule has not held for `CLEAR_S`, with eased edges (see `evidence`). All of it is in the status, so an
operator that takes over goes on where the last one stopped. Times move at most every `STEADY_S`, and the numbers in the
words with the measurements of the status: a value that wavers costs few writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from headway_operator.api.conditions import ConditionStatus, ConditionType, Finding, Reason
from headway_operator.api.v1alpha1 import SymptomStatus
from headway_operator.core import schedule, tuning
from headway_operator.core.evidence import gather
from headway_operator.core.symptoms import NAMES, Severity, Symptom, symptoms
from headway_operator.core.view import Situation

CLEAR_S = 60.0
STEADY_S = 5.0


def symptoms_of(situation: Situation, refresh: bool) -> tuple[SymptomStatus, ...]:
    """The symptoms after this pass. `refresh`: the numbers inside the words may be renewed."""
    # One that only another version knows cannot be judged here, so it is dropped.
    before = [one for one in situation.fleet.status.symptoms if known(one.name) is not None]
    evidence = replace(
        gather(situation.observed, situation.fleet, situation.limits.effective, situation.load, situation.verdict),
        set_aside=schedule.set_aside(situation.schedule),
        outlook=situation.outlook,
        raised_s=tuning.raised_s(
            situation.fleet, situation.limits, situation.memory.stamps, situation.observed.monotonic_s
        ),
    )
    return follow(before, symptoms(evidence, [Reason(one.name) for one in before]), situation.observed.now, refresh)


def follow(
    before: Sequence[SymptomStatus], found: Sequence[Symptom], now: datetime, refresh: bool
) -> tuple[SymptomStatus, ...]:
    """The reported symptoms after a pass in which the rules of `found` held, the worst first."""
    old = {one.name: one for one in before}
    after = [_seen(old.get(one.name), one, now, refresh) for one in found]
    names = {one.name for one in found}
    after += [kept for one in before if one.name not in names and (kept := _quiet(one, now)) is not None]
    return tuple(sorted(after, key=lambda one: (one.severity != Severity.CRITICAL, one.name)))


def healthy(situation: Situation, reported: Sequence[SymptomStatus]) -> Finding:
    """The condition over all symptoms."""
    kind = ConditionType.HEALTHY
    if reported:
        worst, *others = reported
        more = f". Also: {', '.join(one.name for one in others)}" if others else ""
        return Finding(kind, ConditionStatus.FALSE, Reason(worst.name), f"{worst.message}. Cure: {worst.cure}{more}")
    if situation.load.view.reporting == 0:
        return Finding(kind, ConditionStatus.UNKNOWN, Reason.NO_ENGINES, "no engine answers: there is nothing to judge")
    return Finding(kind, ConditionStatus.TRUE, Reason.NO_SYMPTOM)


def known(name: str) -> Reason | None:
    """The reason of that name; None for one of another version."""
    return next((reason for reason in NAMES if reason.value == name), None)


def _seen(before: SymptomStatus | None, found: Symptom, now: datetime, refresh: bool) -> SymptomStatus:
    fresh = SymptomStatus(
        name=found.name,
        severity=found.severity,
        message=found.words,
        cure=found.cure,
        since=before.since if before else now,
    )
    if before is None:
        return fresh
    kept = fresh if refresh else before
    quiet = before.quiet_since
    unsettled = quiet is not None and (now - quiet).total_seconds() < STEADY_S
    return kept.model_copy(update={"quiet_since": quiet if unsettled else None})


def _quiet(before: SymptomStatus, now: datetime) -> SymptomStatus | None:
    """A symptom whose rule does not hold in this pass; None when it is over."""
    if before.quiet_since is None:
        return before.model_copy(update={"quiet_since": now})
    return before if (now - before.quiet_since).total_seconds() < CLEAR_S else None
