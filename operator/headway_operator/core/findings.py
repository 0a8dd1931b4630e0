"""A situation in conditions: what is known of each aspect, why, and what to do about it.

Messages hold no number that moves with the load, unless it is one that the status shows anyway: a condition is rewritten
when its meaning changes, not each second.
"""

from collections.abc import Sequence

from headway_operator.api.conditions import ConditionStatus, ConditionType, Finding, Reason
from headway_operator.api.v1alpha1 import ClassStatus, DeadlineStatus, ScalingMode, SloStatus, TuningMode
from headway_operator.core import names, pods
from headway_operator.core.diagnose import Diagnosis, worst
from headway_operator.core.validation import Refused
from headway_operator.core.view import Situation

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
# An engine that became ready, or that a new operator asks for the first time, gets so long before its silence is a worry.
FIRST_ANSWER_S = 10.0
APPLY_GRACE_S = 10.0  # engines get so long to confirm new limits before it is worth a word


def findings(situation: Situation, slo: SloStatus | None) -> tuple[Finding, ...]:
    """Every condition of the spec that runs, but those of which what was said before stands.

    `slo`: the block that this status will show.
    """
    trouble = worst(situation.live, situation.observed.now)
    found = (
        _ready(situation, trouble),
        _progressing(situation),
        _model_available(situation, trouble),
        _metrics_available(situation),
        _slo_met(situation, slo),
        _scaling_active(situation),
        _scaling_limited(situation, trouble),
        _tuning_applied(situation),
        _draining(situation),
        _paused(situation),
    )
    return tuple(one for one in found if one is not None)


def accepted(refused: Refused | None, earlier: int | None) -> Finding:
    """Whether the newest spec can be acted on. `earlier`: the generation of the one that runs in its place."""
    if refused is None:
        return Finding(ConditionType.ACCEPTED, TRUE, Reason.VALID)
    meanwhile = "" if earlier is None else f"; the fleet runs with the spec of generation {earlier} meanwhile"
    return Finding(ConditionType.ACCEPTED, FALSE, refused.reason, f"{refused.message}{meanwhile}")


def _ready(situation: Situation, trouble: Diagnosis | None) -> Finding:
    desired = situation.replicas.desired
    serving = sum(1 for pod in situation.updated if pod.ready)
    count = f"{serving} of {desired} replicas are ready"
    if desired == 0:
        return Finding(ConditionType.READY, TRUE, Reason.SCALED_TO_ZERO, "no replica is desired")
    if serving >= desired:
        reason = Reason.ALL_REPLICAS if situation.earlier is None else Reason.EARLIER_SPEC
        return Finding(ConditionType.READY, TRUE, reason, f"{desired} of {desired} replicas are ready")
    if trouble is not None:
        return Finding(ConditionType.READY, FALSE, trouble.reason, f"{count}: {trouble.message}")
    if situation.observed.refused and len(situation.live) < desired:
        message = f"{count}: the API server refuses to create a pod: {situation.observed.refused}"
        return Finding(ConditionType.READY, FALSE, Reason.POD_REFUSED, message)
    if situation.rolling:
        return Finding(ConditionType.READY, FALSE, Reason.ROLLING_OUT, f"{count} with the current revision")
    return Finding(ConditionType.READY, FALSE, Reason.STARTING, count)


def _progressing(situation: Situation) -> Finding:
    kind, desired, live = ConditionType.PROGRESSING, situation.replicas.desired, len(situation.live)
    if situation.rolling:
        text = f"{len(situation.updated)} of {desired} replicas have revision {situation.revision}"
        return Finding(kind, TRUE, Reason.ROLLING_OUT, text)
    if live > desired or situation.draining:
        return Finding(kind, TRUE, Reason.SCALING_IN, f"more replicas still run than the {desired} desired")
    if len(situation.serving) < desired:
        return Finding(kind, TRUE, Reason.SCALING_OUT, f"{len(situation.serving)} of {desired} replicas are ready")
    return Finding(kind, FALSE, Reason.STABLE)


def _model_available(situation: Situation, trouble: Diagnosis | None) -> Finding:
    kind = ConditionType.MODEL_AVAILABLE
    if situation.serving:
        return Finding(kind, TRUE, Reason.LOADED)
    if trouble is not None and trouble.reason in (Reason.MODEL_UNUSABLE, Reason.VOLUME_UNAVAILABLE):
        return Finding(kind, FALSE, trouble.reason, trouble.message)
    if situation.replicas.desired == 0:
        return Finding(kind, UNKNOWN, Reason.SCALED_TO_ZERO)
    return Finding(kind, UNKNOWN, Reason.LOADING, "no engine has loaded the model yet")


def _metrics_available(situation: Situation) -> Finding | None:
    """None while a new operator has not heard from every engine: it has hardly asked."""
    kind, view = ConditionType.METRICS_AVAILABLE, situation.load.view
    if view.serving == 0:
        return Finding(kind, UNKNOWN, Reason.NO_ENGINES)
    now, quiet = situation.observed.now, frozenset(situation.load.silent)
    old = [pod for pod in situation.live if pod.name in quiet and pods.ready_s(pod, now) >= FIRST_ANSWER_S]
    silent = names.few(pod.name for pod in old)
    if silent and situation.watched_s < FIRST_ANSWER_S:
        return None
    if view.reporting == 0 and not silent:
        return Finding(kind, UNKNOWN, Reason.NO_ENGINES, "engines have just become ready")
    if view.reporting == 0:
        return Finding(kind, FALSE, Reason.METRICS_LOST, f"no engine answers on the control port: {silent}")
    if silent:
        rest = "decisions go on without them" if view.fresh else "scaling and tuning hold"
        return Finding(kind, TRUE if view.fresh else FALSE, Reason.SOME_ENGINES_SILENT, f"silent: {silent}; {rest}")
    return Finding(kind, TRUE, Reason.ALL_ENGINES_ANSWER)


def _slo_met(situation: Situation, slo: SloStatus | None) -> Finding:
    kind, objective = ConditionType.SLO_MET, situation.fleet.spec.slo
    if objective is None:
        return Finding(kind, UNKNOWN, Reason.NO_OBJECTIVE)
    late = _late_words(slo.deadline if slo is not None else None)
    if slo is None or not (
        late
        or any(
            seen is not None
            for seen in (slo.ttft_observed_milliseconds, *(one.ttft_observed_milliseconds for one in slo.classes))
        )
    ):
        return Finding(kind, UNKNOWN, Reason.NO_TRAFFIC)
    if slo.classes:
        return _classes_met(slo.classes, late)
    parts, missed = [*late], bool(late)
    first = None if objective.deadline_seconds is not None else slo.ttft_observed_milliseconds
    for name, target, seen in (
        ("TTFT", objective.ttft_target, first),
        ("inter-token latency", objective.inter_token_latency_target, slo.inter_token_latency_observed_milliseconds),
    ):
        if seen is not None:
            over = seen > target.target_milliseconds
            missed = missed or over
            sign = ">" if over else "<="
            parts.append(f"p{target.percentile} {name} {seen} ms {sign} {target.target_milliseconds} ms")
    status, reason = (FALSE, Reason.TARGET_MISSED) if missed else (TRUE, Reason.WITHIN_TARGET)
    return Finding(kind, status, reason, ", ".join(parts))


def _late_words(deadline: DeadlineStatus | None) -> list[str]:
    """Work that ended after its deadline; [] when all was in time."""
    if deadline is None or not deadline.late_count:
        return []
    counts = f"{deadline.late_count} of {deadline.finished_count} batch requests"
    return [f"{counts} ended after their deadline of {deadline.seconds} s"]


def _classes_met(classes: Sequence[ClassStatus], late: Sequence[str]) -> Finding:
    """The condition of a fleet of several classes: met when each of them is, and no work was `late` for its deadline."""
    parts, missed = [*late], bool(late)
    for one in classes:
        for name, seen, target in (
            ("TTFT", one.ttft_observed_milliseconds, one.ttft_target_milliseconds),
            (
                "inter-token latency",
                one.inter_token_latency_observed_milliseconds,
                one.inter_token_latency_target_milliseconds,
            ),
        ):
            if seen is not None and target is not None:
                missed = missed or seen > target
                parts.append(
                    f"{one.workload_class.value} {name} {seen} ms {'>' if seen > target else '<='} {target} ms"
                )
    status, reason = (FALSE, Reason.TARGET_MISSED) if missed else (TRUE, Reason.WITHIN_TARGET)
    return Finding(ConditionType.SLO_MET, status, reason, ", ".join(parts))


def _scaling_active(situation: Situation) -> Finding | None:
    """None while a new operator has not heard from the engines."""
    kind, mode = ConditionType.SCALING_ACTIVE, situation.fleet.spec.scaling.mode
    decision = situation.replicas.decision
    if mode is ScalingMode.AUTO:
        if decision is not None and decision.hold and situation.load.view.serving > 0:
            if situation.watched_s < FIRST_ANSWER_S:
                return None
            return Finding(kind, FALSE, Reason.METRICS_LOST, "the count is held: too few engines answer to decide on")
        return Finding(kind, TRUE, Reason.AUTO)
    reason = {ScalingMode.ADVISORY: Reason.ADVISORY, ScalingMode.EXTERNAL: Reason.EXTERNAL, ScalingMode.OFF: Reason.OFF}
    return Finding(kind, FALSE, reason[mode])


def _scaling_limited(situation: Situation, trouble: Diagnosis | None) -> Finding:
    kind, decision = ConditionType.SCALING_LIMITED, situation.replicas.decision
    if trouble is not None and trouble.reason in (Reason.INSUFFICIENT_GPUS, Reason.UNSCHEDULABLE):
        return Finding(kind, TRUE, trouble.reason, trouble.message)
    if situation.observed.refused and len(situation.live) < situation.replicas.desired:
        return Finding(kind, TRUE, Reason.POD_REFUSED, situation.observed.refused)
    if decision is None:
        return Finding(kind, FALSE, Reason.NOT_LIMITED)
    if decision.limited:
        bound = situation.fleet.spec.scaling.max_replicas
        return Finding(kind, TRUE, Reason.MAX_REPLICAS, f"the load asks for more than maxReplicas, {bound}")
    if decision.recommended > decision.replicas:
        text = f"{decision.recommended} replicas recommended, {decision.replicas} desired: see status.scaling.reason"
        reason = Reason.STABILIZING if "recommended for" in decision.reason else Reason.STEP_LIMIT
        return Finding(kind, TRUE, reason, text)
    return Finding(kind, FALSE, Reason.NOT_LIMITED)


def _tuning_applied(situation: Situation) -> Finding | None:
    """None while engines still have time to confirm a change: what was said before stands."""
    kind = ConditionType.TUNING_APPLIED
    if not situation.serving:
        return Finding(kind, UNKNOWN, Reason.NO_ENGINES)
    missing = [pod for pod in situation.serving if pod.name not in situation.confirmed]
    mode = situation.fleet.spec.tuning.mode
    if not missing:
        return Finding(kind, TRUE, Reason.APPLIED, "" if mode is TuningMode.AUTO else f"tuning mode {mode.value}")
    before = situation.fleet.status.tuning
    changed = before.last_change_time if before is not None else None
    now = situation.observed.now
    deciding = before is None or before.effective != situation.limits.effective
    recent = changed is not None and (now - changed).total_seconds() < APPLY_GRACE_S
    young = all(pods.ready_s(pod, now) < APPLY_GRACE_S for pod in missing)
    if deciding or recent or young or situation.watched_s < APPLY_GRACE_S:
        return None
    silent = names.few(sorted(pod.name for pod in missing if pod.name not in situation.samples))
    others = names.few(sorted(pod.name for pod in missing if pod.name in situation.samples))
    parts = [f"not confirmed by {silent}: are they reachable on the control port?"] if silent else []
    parts += [f"{others} answer, with other limits"] if others else []
    return Finding(kind, FALSE, Reason.APPLYING, "; ".join(parts))


def _draining(situation: Situation) -> Finding:
    if not situation.draining:
        return Finding(ConditionType.DRAINING, FALSE, Reason.NONE_DRAINING)
    text = names.few(sorted(pod.name for pod in situation.draining))
    return Finding(ConditionType.DRAINING, TRUE, Reason.STREAMS_FINISHING, text)


def _paused(situation: Situation) -> Finding:
    if situation.fleet.spec.paused:
        return Finding(ConditionType.PAUSED, TRUE, Reason.PAUSED, "spec.paused is true: nothing is changed")
    return Finding(ConditionType.PAUSED, FALSE, Reason.NOT_PAUSED)
