"""`headway explain`: why a fleet is as it is, in the operator's own words, from what it wrote into the status.

First the conditions that ask for something, then what was measured, then what each actuator wants and why, then the last
changes of both, newest first.
"""

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headway_cli import origins
from headway_cli.cluster import Cluster, Json
from headway_operator.api.conditions import ConditionType
from headway_operator.api.spec_slo import DEFAULT_ITL_TARGET_MS, DEFAULT_TTFT_TARGET_MS
from headway_operator.core.events import told_once

# These are well when True, the others when False.
_WELL_WHEN_TRUE = frozenset(
    {
        ConditionType.READY,
        ConditionType.ACCEPTED,
        ConditionType.MODEL_AVAILABLE,
        ConditionType.METRICS_AVAILABLE,
        ConditionType.SLO_MET,
        ConditionType.SCALING_ACTIVE,
        ConditionType.TUNING_APPLIED,
        ConditionType.HEALTHY,
    }
)
_SWITCHES = {ConditionType.SCALING_ACTIVE: "scaling", ConditionType.TUNING_APPLIED: "tuning"}


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    print(asyncio.run(_explain(options)), end="")
    return 0


async def _explain(options: argparse.Namespace) -> str:
    async with await Cluster.connect(options.context) as cluster:
        return text(await cluster.fleet_object(options.name, options.namespace))


def text(fleet: Json) -> str:
    """The explanation of one LLMDeployment."""
    status = fleet.get("status", {})
    spec = status.get("lastAccepted", fleet)["spec"]  # what the fleet runs with
    lines = [f"{fleet['metadata']['namespace']}/{fleet['metadata']['name']}", ""]
    conditions = status.get("conditions", [])
    if not conditions:
        return "\n".join([*lines, "The operator has not written anything yet: is it running?"]) + "\n"
    for part in (
        _conditions(conditions, spec),
        _measured(status.get("slo", {}), spec.get("slo", {})),
        _demand(status.get("demand", {})),
        _actuators(spec, status),
        _windows(status.get("schedule", {})),
        origins.lines({**fleet, "spec": spec}),
    ):
        shown = [*part]
        lines += [*shown, ""] if shown else []
    lines += ["Last changes", *(_changes(status) or ["  none"])]
    return "\n".join(lines) + "\n"


def _conditions(conditions: Sequence[Json], spec: Json) -> Iterator[str]:
    wrong = [one for one in conditions if not well(one, spec)]
    yield "What asks for something" if wrong else "All conditions are well"
    for one in wrong:
        yield f"  {one['type']}={one['status']} {one.get('reason', '')}: {one.get('message', '')}"


def well(condition: Json, spec: Json) -> bool:
    """Whether a condition asks for nothing."""
    kind, found = condition["type"], condition["status"]
    switch = _SWITCHES.get(kind)
    if switch is not None and spec.get(switch, {}).get("mode", "Off") != "Auto":
        return True  # nobody asked for it
    # Unknown is what is said before anything could be measured.
    return found in ("True" if kind in _WELL_WHEN_TRUE else "False", "Unknown")


def _measured(slo: Json, objective: Json) -> Iterator[str]:
    window = f" over {objective['windowSeconds']} s" if "windowSeconds" in objective else ""
    # What hardly changes is not written again; without its time the figures of an operator that is gone would look live.
    yield f"Measured{window}" + (f", written {slo['lastSampleTime']}" if "lastSampleTime" in slo else "")
    for field, key, label, defaults in (
        ("ttftObservedMilliseconds", "ttft", "TTFT", DEFAULT_TTFT_TARGET_MS),
        ("interTokenLatencyObservedMilliseconds", "interTokenLatency", "ITL", DEFAULT_ITL_TARGET_MS),
    ):
        target = objective.get(key, {})
        asked = target.get("targetMilliseconds", defaults.get(objective.get("workloadClass", "")))
        if key == "ttft" and "deadlineSeconds" in objective:
            asked = None  # shown and judged by nobody
        aim = f", target {asked} ms" if asked is not None else ""
        value = f"{slo[field]} ms" if field in slo else "no samples"
        yield f"  {label:<5} p{target.get('percentile', 95)} {value}{aim}"
    yield from (f"  {line}" for line in deadline_lines(slo.get("deadline", {})))
    for one in slo.get("classes", []):
        yield f"  {one['workloadClass']}: {_class_words(one)}"
    counts = [
        (slo[field], label)
        for field, label in (("sampleCount", "requests"), ("queueDepth", "waiting"), ("tokensPerSecond", "tokens/s"))
        if field in slo
    ]
    if counts:
        yield "  " + ", ".join(f"{count} {label}" for count, label in counts)


def deadline_lines(found: Json) -> Iterator[str]:
    """How the work with a deadline stands; nothing for a fleet whose work has none."""
    if not found:
        return
    yield (
        f"deadline {found['seconds']} s: {found['waitingRequests']} requests wait or run{_ends(found)}; "
        f"{found.get('lateCount', 0)} of {found.get('finishedCount', 0)} that ended were late"
    )
    if "neededReplicas" in found:
        yield f"it asks for {found['neededReplicas']} replicas, other classes included"


def _ends(found: Json) -> str:
    if not found["waitingRequests"]:
        return ""
    if "doneInSeconds" not in found:
        if "neededReplicas" not in found:
            return ", it is not known by when they are done at this size"
        # What they ask for is known, so their end is no unknown one.
        return ", at this size they are never done: other classes leave nothing free"
    spare = found.get("spareSeconds")
    aim = "" if spare is None else f", {abs(spare)} s {'before' if spare >= 0 else 'AFTER'} the tightest deadline"
    return f", done in {found['doneInSeconds']} s at this size{aim}"


def _class_words(one: Json) -> str:
    def part(name: str, key: str) -> str:
        value = f"{one[f'{key}ObservedMilliseconds']} ms" if f"{key}ObservedMilliseconds" in one else "no samples"
        target = f"{key}TargetMilliseconds"
        return f"{name} {value}, target {one[target]} ms" if target in one else f"{name} {value}, no target"

    within = (
        f", {one['attainmentPercent']} % of {one['sampleCount']} first tokens within it"
        if "attainmentPercent" in one  # not where a deadline is the target
        else ""
    )
    return f"{part('TTFT', 'ttft')}{within}; {part('ITL', 'interTokenLatency')}"


def _demand(demand: Json) -> Iterator[str]:
    """What the count rests on: the load in engines, the mean request, and what a step of an engine costs."""
    minutes = demand.get("perMinute", [])
    if not minutes:
        return
    last, most = minutes[-1] / 1000, max(minutes) / 1000
    yield f"Demand {last:.2f} engines in the minute to {demand.get('time', '?')}, {most:.2f} at most in {len(minutes)} min"
    if "inputTokens" in demand:
        yield f"  mean request: {demand['inputTokens']} tokens in, {demand.get('outputTokens', '?')} out"
    if "stepMicroseconds" in demand:
        step, sequence, prompt = (
            demand.get(name, 0) / 1000
            for name in ("stepMicroseconds", "sequenceMicroseconds", "promptTokenMicroseconds")
        )
        yield f"  an engine step: {step:.1f} ms + {sequence:.2f} ms per sequence + {prompt:.3f} ms per prompt token"


def _actuators(spec: Json, status: Json) -> Iterator[str]:
    scaling, tuning = status.get("scaling", {}), status.get("tuning", {})
    yield f"Scaling {spec.get('scaling', {}).get('mode', 'Off')}: desired replicas {scaling.get('desiredReplicas', '?')}"
    yield f"  {scaling.get('reason', 'no decision yet')}"
    yield f"Tuning {spec.get('tuning', {}).get('mode', 'Off')}: {_limits(tuning.get('effective', {}))}"
    yield f"  {tuning.get('reason', 'no decision yet')}"


def _windows(schedule: Json) -> Iterator[str]:
    """Nothing for a fleet without schedules."""
    if schedule:
        yield "Windows" if schedule.get("active") or schedule.get("setAside") else "Windows: none is open"
    for window in schedule.get("active", []):
        yield f"  {window['name']} until {window['until']}: {', '.join(window.get('overrides', [])) or 'sets nothing'}"
    for window in schedule.get("setAside", []):
        yield f"  {window['name']} until {window['until']} is set aside: {window['message']}"
    if "nextChangeTime" in schedule:
        yield f"  next change {schedule['nextChangeTime']}"


def _changes(status: Json) -> list[str]:
    found = [
        (change["time"], f"replicas {change['from']} -> {change['to']}: {change['reason']}")
        for change in status.get("scaling", {}).get("history", [])
    ] + [
        (change["time"], told_once(_difference(change["from"], change["to"]), change["reason"]))
        for change in status.get("tuning", {}).get("history", [])
    ]
    return [f"  {time}  {what}" for time, what in sorted(found, reverse=True)]


def _limits(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in limits.items()) or "no limits yet"


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name} {before.get(name)} -> {after[name]}" for name in changed) or "limits"
