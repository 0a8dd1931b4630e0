"""What `headway diagnose` concludes from what was read of a fleet.

The rules are those that the operator judges a fleet by; beside them stands what only somebody outside can see: an operator
that is silent, an autoscaler whose writes are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from headway_cli.cluster import Json
from headway_cli.explain import deadline_lines, well
from headway_operator.api.conditions import ConditionType, Reason
from headway_operator.api.v1alpha1 import (
    LLMDeployment,
    LLMDeploymentSpec,
    ScalingMode,
    SymptomStatus,
    TuningStatus,
    baseline_limits,
)
from headway_operator.core import diagnose, histogram, objectives, pods, schedule, tuning, validation
from headway_operator.core.deadlines import Outlook, Windows, counted, foretold
from headway_operator.core.evidence import Evidence, gather
from headway_operator.core.load import FleetLoad, fleet_load
from headway_operator.core.observed import Defaults, EngineSample, Observed, PodView
from headway_operator.core.symptoms import Severity, symptoms
from headway_operator.core.validation import Refused
from headway_operator.core.watch import known
from headway_planner.model import MIN_REQUEST_SAMPLES

# What a symptom explains, or what is a fleet's normal life.
_EXPLAINED = frozenset(
    {ConditionType.SLO_MET, ConditionType.PROGRESSING, ConditionType.DRAINING, ConditionType.HEALTHY}
)
_SILENT = "OperatorSilent"  # no condition's reason: who would write it is gone
_GRAVE = frozenset({ConditionType.READY, ConditionType.ACCEPTED, ConditionType.MODEL_AVAILABLE})


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read of one fleet.

    Attributes:
        manifest: the LLMDeployment.
        pods: its engine pods.
        samples: per pod the engine's answers, oldest first; times on the clock of `monotonic_s`.
        silent: per serving pod that did not answer, why.
        autoscalers: names of the HorizontalPodAutoscalers that target the fleet.
    """

    manifest: Json
    pods: tuple[PodView, ...]
    samples: Mapping[str, tuple[EngineSample, ...]]
    silent: Mapping[str, str]
    autoscalers: tuple[str, ...]
    now: datetime
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `cure` is empty where the words hold it."""

    severity: Severity
    name: str
    words: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The outcome: what was measured, what is wrong (the worst first), and what the reader should know beside it."""

    measured: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def conclude(facts: Facts) -> Diagnosis:
    """Judge one fleet."""
    judged = validation.judge(facts.manifest)
    refused = judged if isinstance(judged, Refused) else judged.refused
    found = [*_conditions(facts), *_pods(facts), *_silent(facts)]
    if refused is not None and not any(refused.message in one.words for one in found):
        said = f"the operator cannot act on the spec: {refused.message}"
        found.append(Finding(Severity.CRITICAL, Reason.INVALID_SPEC, said))
    if isinstance(judged, Refused):
        return Diagnosis("nothing was measured", _ordered(found), ())
    fleet = judged.fleet
    evidence = _evidence(facts, fleet)
    found += _symptoms(evidence, fleet.status.symptoms)
    found += _autoscalers(facts, fleet)
    found += _lapsed(facts, evidence.spec, fleet.status.tuning)
    return Diagnosis(_measured(evidence), _ordered(found), tuple(_notes(facts, evidence)))


def _evidence(facts: Facts, fleet: LLMDeployment) -> Evidence:
    effective = schedule.effective(fleet.spec, facts.now)
    current = fleet.model_copy(update={"spec": effective.spec})
    observed = Observed(
        manifest=facts.manifest,
        pods=facts.pods,
        children=(),
        samples=facts.samples,
        now=facts.now,
        monotonic_s=facts.monotonic_s,
        defaults=Defaults(engine_image=""),
        autoscalers=facts.autoscalers if fleet.spec.scaling.mode is ScalingMode.AUTO else (),
    )
    said = fleet.status.tuning
    limits = said.effective if said is not None and said.effective is not None else baseline_limits(current.spec)
    load = _load(facts, current)
    found = gather(observed, current, limits, load, objectives.verdict(current.spec.slo, load.classes))
    return replace(found, set_aside=schedule.set_aside(effective.status), outlook=_outlook(facts, current))


def _outlook(facts: Facts, fleet: LLMDeployment) -> Outlook | None:
    """The work with a deadline: what engines count of it in these seconds, and the operator's prediction."""
    if not objectives.has_deadline(fleet.spec.slo):
        return None
    ends = [(series[0], series[-1]) for series in facts.samples.values()]
    said = fleet.status.slo.deadline if fleet.status.slo is not None else None
    return foretold(counted(objectives.deadline_s(fleet.spec.slo), Windows(ends)), said)


def _load(facts: Facts, fleet: LLMDeployment) -> FleetLoad:
    shares = objectives.shares(fleet.spec.slo)
    serving = [pod.name for pod in facts.pods if pods.serving(pod)]
    first_s = min((series[0].taken_s for series in facts.samples.values() if series), default=facts.monotonic_s)
    return fleet_load(serving, facts.samples, facts.monotonic_s, facts.monotonic_s - first_s, shares)


def _symptoms(evidence: Evidence, reported: Sequence[SymptomStatus]) -> Iterator[Finding]:
    """What shows now, and what the operator saw in its longer window."""
    live = symptoms(evidence, [name for one in reported if (name := known(one.name)) is not None])
    for one in live:
        yield Finding(one.severity, one.name, one.words, one.cure)
    for seen in reported:
        if seen.name not in {one.name for one in live}:
            words = f"{seen.message} (seen by the operator since {seen.since:%Y-%m-%dT%H:%M:%SZ}, not in these seconds)"
            yield Finding(Severity(seen.severity), seen.name, words, seen.cure)


def _conditions(facts: Facts) -> Iterator[Finding]:
    status, metadata = facts.manifest.get("status") or {}, facts.manifest["metadata"]
    conditions = status.get("conditions") or []
    known, now = status.get("observedGeneration"), metadata.get("generation")
    if conditions and known is not None and now is not None and known < now:
        what = "deletion" if metadata.get("deletionTimestamp") else "last change"
        words = f"the operator has not seen this fleet's {what} (generation {now}, it knows {known}): is it running?"
        yield Finding(Severity.CRITICAL, _SILENT, words)
    if not conditions:
        words = (
            "the operator has not written anything about this fleet: is it running, and does it watch this namespace?"
        )
        yield Finding(Severity.CRITICAL, _SILENT, words)
    told: list[str] = []
    for one in conditions:
        kind, reason = one["type"], one.get("reason", "")
        words = one.get("message") or reason
        # What is refused keeps a fleet from more than one thing, in the same words.
        if kind in _EXPLAINED or well(one, facts.manifest["spec"]) or any(words in before for before in told):
            continue
        told.append(words)
        severity = Severity.CRITICAL if kind in _GRAVE else Severity.WARNING
        yield Finding(severity, reason, f"{kind} is {one['status']}: {words}")


def _pods(facts: Facts) -> Iterator[Finding]:
    """Why a pod does not serve, from the pods themselves: the status may be old."""
    trouble = diagnose.worst(facts.pods, facts.now)
    told = {one.get("reason") for one in (facts.manifest.get("status") or {}).get("conditions") or []}
    if trouble is not None and trouble.reason not in told:
        yield Finding(Severity.CRITICAL, trouble.reason, trouble.message)


def _silent(facts: Facts) -> Iterator[Finding]:
    for pod, why in sorted(facts.silent.items()):
        cure = f"`kubectl logs {pod}`; a NetworkPolicy must let the operator reach its control port"
        yield Finding(
            Severity.WARNING, Reason.SOME_ENGINES_SILENT, f"the engine of pod {pod} does not answer: {why}", cure
        )


def _lapsed(facts: Facts, spec: LLMDeploymentSpec, said: TuningStatus | None) -> Iterator[Finding]:
    """Tuned limits are lent: where nobody has renewed them, engines run with the spec's, whatever the status says."""
    latest = [series[-1] for series in facts.samples.values() if series]
    if said is None or said.effective is None or spec.paused or not latest:
        return
    tuned, declared = tuning.patch(said.effective), tuning.patch(baseline_limits(spec))
    if any(one.effective.agrees(tuned) or not one.effective.agrees(declared) for one in latest):
        return
    yield Finding(
        Severity.CRITICAL,
        _SILENT,
        "no engine runs with the limits in status.tuning.effective, as nobody has renewed them: they fell back to the spec's",
        "is the operator running, and does a NetworkPolicy let it reach the engines' control port?",
    )


def _autoscalers(facts: Facts, fleet: LLMDeployment) -> Iterator[Finding]:
    """Those that move a count which is meant for people; in mode Auto the operator's own symptom names them."""
    mode = fleet.spec.scaling.mode
    if not facts.autoscalers or mode in (ScalingMode.EXTERNAL, ScalingMode.AUTO):
        return
    yield Finding(
        Severity.WARNING,
        Reason.RIVAL_WRITER,
        f"HorizontalPodAutoscaler {', '.join(facts.autoscalers)} targets this fleet, but spec.scaling.mode is {mode.value}, "
        "which is meant for people",
        "delete it, or hand the count over with spec.scaling.mode External and spec.replicas",
    )


def _measured(evidence: Evidence) -> str:
    view, load = evidence.view, evidence.load
    if view.reporting == 0:
        return f"{view.reporting} of {view.serving} engines answer: nothing was measured"
    parts = [f"{view.reporting} of {view.serving} engines answer", f"{view.arrivals} requests in {view.span_s:.0f} s"]
    for name, latency, target in (
        ("TTFT", view.ttft, evidence.ttft_target_ms),
        ("time between tokens", view.itl, evidence.itl_target_ms),
    ):
        if latency.high_ms is not None:
            aim = f" (target {target:.0f})" if target is not None else ""
            parts.append(f"{name} {latency.high_ms:.0f} ms{aim}")
    parts += [f"{load.tokens_per_s:.0f} tokens/s", f"{view.waiting:.1f} waiting", f"KV cache {view.kv_usage:.0%}"]
    return ", ".join(parts)


def _notes(facts: Facts, evidence: Evidence) -> Iterator[str]:
    view, spec = evidence.view, evidence.spec
    if spec.paused:
        yield "spec.paused is true: the operator changes nothing"
    if spec.slo is None:
        yield "spec.slo is not set: latencies are judged by no target"
    if view.reporting and not view.active:
        yield (
            f"no request ran, waited or arrived in {view.span_s:.0f} s: the rules about latencies have nothing to judge. "
            f"{_since_start(facts)}. `headway bench online --fleet {facts.manifest['metadata']['name']}` sends some"
        )
    elif view.reporting and view.ttft.count < MIN_REQUEST_SAMPLES and not _waits(spec):
        yield (
            f"{view.ttft.count} first tokens in {view.span_s:.0f} s are too few to judge latencies by, {MIN_REQUEST_SAMPLES} are "
            "needed: look for longer with --seconds"
        )
    slo = (facts.manifest.get("status") or {}).get("slo") or {}
    if said := "; ".join(deadline_lines(slo.get("deadline") or {})):
        yield f"the operator at {slo.get('lastSampleTime', '?')}: {said}"


def _waits(spec: LLMDeploymentSpec) -> bool:
    """Whether the fleet has only work with a deadline, whose first tokens are judged by nobody."""
    return spec.slo is not None and spec.slo.deadline_seconds is not None and not spec.slo.classes


def _since_start(facts: Facts) -> str:
    latest = [series[-1] for series in facts.samples.values() if series]
    received = sum(sample.requests_received for sample in latest)
    if received == 0:
        return "These engines have had no request since they started"
    ttft = histogram.quantile(histogram.merge(sample.ttft for sample in latest), 0.95)
    refused = sum(sample.queue_full for sample in latest)
    late = "unknown" if ttft is None else f"{ttft:.0f} ms"
    return f"Since they started: {received} requests, p95 TTFT {late}, {refused} refused by a full queue"


def _ordered(found: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(dict.fromkeys(found), key=lambda one: one.severity is not Severity.CRITICAL))
