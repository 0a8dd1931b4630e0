"""Which batch limits, and how they reach the engines.

The baseline is the spec's and belongs in every engine: it is what the engine falls back to when it hears nothing. What
tuning adds to it is only lent, by a lease that is renewed at half its length. Without tuning, and when tuning wants just
the baseline, no lease is needed and a settled fleet costs no call.

A baseline that the user or a window moves is in force with the next pass, cooldown or not: the limits that moved begin at
their new values, the others stay where tuning has them. Tuning goes on from there, a cooldown later as after any change.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from headway_operator.api.v1alpha1 import (
    HISTORY_LENGTH,
    LimitValues,
    LLMDeployment,
    LLMDeploymentSpec,
    TuningChange,
    TuningMode,
    TuningStatus,
    baseline_limits,
    tuning_bounds,
)
from headway_operator.core import names
from headway_operator.core.observed import EngineSample, PodView
from headway_operator.core.plan import LimitsPatch, SetLimits, shared
from headway_planner.model import BatchLimits, Direction, TuneConfig, TuneDecision, TuneState, direction_of
from headway_planner.tune import BLIND, clamp


@dataclass(frozen=True, slots=True)
class Limits:
    """The outcome for one pass.

    Attributes:
        effective: what every engine should run with.
        baseline: what it falls back to.
        recommended: what the policy asks for; None when it was not asked.
        reason: why.
        hold: the policy judged nothing in this pass; the reason of the pass before stands.
    """

    effective: LimitValues
    baseline: LimitValues
    recommended: LimitValues | None
    reason: str
    hold: bool = False


def policy_config(spec: LLMDeploymentSpec) -> TuneConfig | None:
    """What the policy may do; None when it is not asked."""
    if spec.tuning.mode is TuningMode.OFF or spec.slo is None:
        return None
    capacity = spec.engine.capacity
    seqs, tokens = tuning_bounds(spec)
    return TuneConfig(
        seqs_min=seqs.min,
        seqs_max=min(seqs.max, capacity.max_num_seqs),
        tokens_min=tokens.min,
        tokens_max=min(tokens.max, capacity.max_num_batched_tokens),
        ttft_target_ms=spec.slo.ttft_target.target_milliseconds,
        itl_target_ms=spec.slo.inter_token_latency_target.target_milliseconds,
        cooldown_s=spec.tuning.cooldown_seconds,
    )


def baseline(spec: LLMDeploymentSpec) -> BatchLimits:
    """The user's limits, as the policy knows them."""
    return _batch(baseline_limits(spec))


def policy_state(fleet: LLMDeployment, stamps: Mapping[datetime, float]) -> TuneState:
    """What the policy remembers, from the status. `stamps`: the status's times on the policy's clock."""
    memory = fleet.status.tuning or TuningStatus()
    last = memory.history[0] if memory.history else None
    return TuneState(
        limits=_batch(_in_force(fleet)),
        baseline=_batch(baseline_limits(fleet.spec)),
        last_change_s=stamps[last.time] if last is not None else None,
        before=_batch(last.from_) if last is not None else None,
    )


def decided(fleet: LLMDeployment, decision: TuneDecision | None) -> Limits:
    """The mode's answer: the policy's limits in Auto, the spec's in every other mode."""
    baseline = baseline_limits(fleet.spec)
    if decision is None:
        return Limits(baseline, baseline, None, "mode Off: spec.engine.limits")
    recommended = _values(decision.limits, baseline)
    if fleet.spec.tuning.mode is TuningMode.AUTO:
        policy = Limits(recommended, baseline, recommended, decision.reason, decision.hold)
        return _moved(fleet, baseline) or policy
    return Limits(baseline, baseline, recommended, f"Advisory: {decision.reason}", decision.hold)


def _moved(fleet: LLMDeployment, baseline: LimitValues) -> Limits | None:
    """The limits of a pass that finds another baseline than the one before; None while it is the same."""
    memory = fleet.status.tuning or TuningStatus()
    old, now = memory.baseline, memory.effective
    if old is None or now is None or old == baseline or (config := policy_config(fleet.spec)) is None:
        return None
    was, new, held = _batch(old), _batch(baseline), _batch(now)
    wanted = BatchLimits(
        held.seqs if new.seqs == was.seqs else new.seqs,
        held.tokens if new.tokens == was.tokens else new.tokens,
    )
    limits = _values(clamp(wanted, config), baseline)
    return Limits(limits, baseline, limits, f"the spec's limits moved: {changes(old, baseline)}")


def changes(old: LimitValues, new: LimitValues) -> str:
    """What differs, such as `maxNumSeqs 4 -> 6`."""
    before, after = old.model_dump(by_alias=True), new.model_dump(by_alias=True)
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name])


def raised_s(fleet: LLMDeployment, limits: Limits, stamps: Mapping[datetime, float], now_s: float) -> float:
    """Seconds since the limits were raised, if that was their last change, else infinite. `stamps`: as in `policy_state`."""
    memory = fleet.status.tuning or TuningStatus()
    if memory.effective is not None and _raises(memory.effective, limits.effective):
        return 0.0
    last = memory.history[0] if memory.history else None
    return now_s - stamps[last.time] if last is not None and _raises(last.from_, last.to) else math.inf


def _raises(old: LimitValues, new: LimitValues) -> bool:
    return direction_of(_batch(old), _batch(new)) is Direction.UP


def actions(
    limits: Limits, targets: Sequence[PodView], samples: Mapping[str, EngineSample], lease_s: int
) -> tuple[SetLimits, ...]:
    """The calls that bring the engines to `limits`; `samples`: the fresh ones only."""
    goal = _goal(limits)
    due = {
        pod.name: calls
        for pod in targets
        if (sample := samples.get(pod.name)) is not None and (calls := _calls(pod.name, sample, goal, lease_s))
    }
    return tuple(call for name in sorted(due) for call in due[name])


@dataclass(frozen=True, slots=True)
class _Goal:
    baseline: LimitsPatch
    wanted: LimitsPatch
    lent: bool


def _goal(limits: Limits) -> _Goal:
    return _Goal(patch(limits.baseline), patch(limits.effective), lent=limits.effective != limits.baseline)


def _calls(pod: str, sample: EngineSample, goal: _Goal, lease_s: int) -> list[SetLimits]:
    baseline, wanted = goal.baseline, goal.wanted
    if not goal.lent:
        if sample.baseline.agrees(baseline) and sample.effective.agrees(baseline):
            return []
        return [
            SetLimits(pod, baseline, 0, sample.revision, f"the limits of the spec are in force: {_words(baseline)}")
        ]
    calls: list[SetLimits] = []
    revision = sample.revision
    if not sample.baseline.agrees(baseline):
        # A pod that was started with tuned limits: teach it the spec's first, then lend it the tuned ones again.
        calls.append(SetLimits(pod, baseline, 0, revision, "the spec's limits become the baseline"))
        revision += 1
    if calls or not sample.effective.agrees(wanted):
        calls.append(SetLimits(pod, wanted, lease_s, revision, f"tuned limits are in force: {_words(wanted)}"))
    elif sample.lease_remaining_s < lease_s / 2:
        calls.append(SetLimits(pod, wanted, lease_s, revision, "lease renewed"))
    return calls


def _words(limits: LimitsPatch) -> str:
    return f"maxNumSeqs {limits.max_num_seqs}, maxNumBatchedTokens {limits.max_num_batched_tokens}"


def applied(limits: Limits, serving: Sequence[PodView], samples: Mapping[str, EngineSample]) -> tuple[str, ...]:
    """The serving pods whose engine confirms the limits."""
    wanted = patch(limits.effective)
    return tuple(
        pod.name for pod in serving if (sample := samples.get(pod.name)) is not None and sample.effective.agrees(wanted)
    )


def status_of(fleet: LLMDeployment, limits: Limits, applied_count: int, now: datetime, refresh: bool) -> TuningStatus:
    """The status block after this pass. `refresh`: the numbers inside the reason may be renewed."""
    before = fleet.status.tuning or TuningStatus()
    changed = before.effective is not None and before.effective != limits.effective
    same = not changed and before.recommended == limits.recommended
    # An idle fleet measures nothing new: it would say for ever that nobody answers.
    stale = before.reason is not None and BLIND in before.reason
    keep_reason = same and (limits.hold or not (refresh or stale)) and before.reason
    history, revision = before.history, before.revision or 1
    if changed and before.effective is not None:
        change = TuningChange(time=now, from_=before.effective, to=limits.effective, reason=limits.reason)
        history, revision = (change, *history)[:HISTORY_LENGTH], revision + 1
    return TuningStatus(
        revision=revision,
        applied_replicas=applied_count,
        effective=limits.effective,
        baseline=limits.baseline,
        recommended=limits.recommended,
        reason=before.reason if keep_reason else limits.reason,
        last_change_time=now if changed else before.last_change_time,
        history=history,
    )


def patch(limits: LimitValues) -> LimitsPatch:
    """The limits as an engine takes them, every field set."""
    asked = LimitsPatch(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        batch_wait_ms=limits.batch_wait_milliseconds,
        max_queued_requests=limits.max_queued_requests,
        batching_mode=names.engine_word(limits.batching_mode),
        profile=names.engine_word(limits.profile),
        itl_target_ms=limits.itl_target_milliseconds,
        default_class=limits.default_class.value,
        reserved_percent=limits.reserved_percent,
        max_queued_batch_requests=limits.max_queued_batch_requests,
        batch_deadline_ms=1000 * limits.batch_deadline_seconds,
        interactive_itl_target_ms=limits.interactive_itl_target_milliseconds,
        batch_itl_target_ms=limits.batch_itl_target_milliseconds,
        ttft_target_ms=limits.ttft_target_milliseconds,
        interactive_ttft_target_ms=limits.interactive_ttft_target_milliseconds,
    )
    return shared(asked)


def _in_force(fleet: LLMDeployment) -> LimitValues:
    memory = fleet.status.tuning
    return memory.effective if memory is not None and memory.effective is not None else baseline_limits(fleet.spec)


def _batch(limits: LimitValues) -> BatchLimits:
    return BatchLimits(limits.max_num_seqs, limits.max_num_batched_tokens)


def _values(limits: BatchLimits, baseline: LimitValues) -> LimitValues:
    return baseline.model_copy(update={"max_num_seqs": limits.seqs, "max_num_batched_tokens": limits.tokens})
