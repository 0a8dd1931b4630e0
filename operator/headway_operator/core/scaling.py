"""How many replicas: the mode decides who is asked, the policy how many, the status remembers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from headway_operator.api.v1alpha1 import (
    HISTORY_LENGTH,
    LLMDeployment,
    LLMDeploymentSpec,
    ScalingChange,
    ScalingMode,
    ScalingStatus,
    Slo,
)
from headway_operator.core import pods
from headway_operator.core.observed import PodView
from headway_planner.model import ScaleConfig, ScaleDecision, ScaleEvent, ScaleState, TuneState


@dataclass(frozen=True, slots=True)
class Replicas:
    """The outcome for one pass.

    Attributes:
        desired: replicas to work towards.
        decision: what the policy said; None when it was not asked.
        reason: why this count.
    """

    desired: int
    decision: ScaleDecision | None
    reason: str


def manual_replicas(fleet: LLMDeployment) -> int:
    """The count when the policy does not own it.

    Without spec.replicas the fleet keeps what it has, so that leaving mode Auto never makes the count jump; a new fleet
    begins at its minimum.
    """
    spec = fleet.spec
    if spec.replicas is not None:
        return spec.replicas
    scaling = fleet.status.scaling
    before = scaling.desired_replicas if scaling is not None else None
    return spec.scaling.min_replicas if before is None else before


def policy_config(spec: LLMDeploymentSpec) -> ScaleConfig | None:
    """What the policy may do; None when it is not asked."""
    scaling = spec.scaling
    if scaling.mode not in (ScalingMode.AUTO, ScalingMode.ADVISORY) or scaling.max_replicas is None or spec.slo is None:
        return None
    slo: Slo = spec.slo
    return ScaleConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        ttft_target_ms=slo.ttft_target.target_milliseconds,
        itl_target_ms=slo.inter_token_latency_target.target_milliseconds,
        up_window_s=scaling.scale_up.stabilization_window_seconds,
        up_step=scaling.scale_up.max_replicas_per_period,
        up_period_s=scaling.scale_up.period_seconds,
        down_window_s=scaling.scale_down.stabilization_window_seconds,
        down_step=scaling.scale_down.max_replicas_per_period,
        down_period_s=scaling.scale_down.period_seconds,
    )


def policy_state(
    fleet: LLMDeployment,
    all_pods: Sequence[PodView],
    tuned: TuneState,
    stamps: Mapping[datetime, float],
    joined: datetime | None,
) -> ScaleState:
    """What the policy remembers, from the status.

    Args:
        fleet: its status.
        all_pods: what is starting, and what finds no place.
        tuned: the state of the limits.
        stamps: the status's times, and `joined`, on the policy's clock.
        joined: when the newest serving pod became ready.
    """
    memory = fleet.status.scaling or ScalingStatus()
    since = memory.recommended_since
    unready = [pod for pod in all_pods if not pod.ready]
    return ScaleState(
        desired=manual_replicas(fleet),
        warming=sum(1 for pod in unready if pods.warming(pod)),
        blocked=sum(1 for pod in unready if pods.blocked(pod)),
        recommended=memory.recommended_replicas,
        recommended_since_s=stamps[since] if since is not None else None,
        history=tuple(ScaleEvent(stamps[item.time], item.from_, item.to) for item in memory.history),
        limits=tuned.limits,
        baseline_seqs=tuned.baseline.seqs,
        joined_at_s=stamps[joined] if joined is not None else None,
    )


def decided(fleet: LLMDeployment, decision: ScaleDecision | None) -> Replicas:
    """The mode's answer: the policy's count in Auto, the manual one in every other mode."""
    mode = fleet.spec.scaling.mode
    manual = manual_replicas(fleet)
    if mode is ScalingMode.AUTO and decision is not None:
        return Replicas(decision.replicas, decision, decision.reason)
    if mode is ScalingMode.ADVISORY and decision is not None:
        return Replicas(manual, decision, f"Advisory: {decision.recommended} replicas recommended: {decision.reason}")
    source = "spec.replicas" if fleet.spec.replicas is not None else "spec.replicas is unset, the count is kept"
    return Replicas(manual, None, f"mode {mode.value}: {source}")


def status_of(fleet: LLMDeployment, replicas: Replicas, now: datetime, refresh: bool) -> ScalingStatus:
    """The status block after this pass. `refresh`: the numbers inside the reason may be renewed."""
    before = fleet.status.scaling or ScalingStatus()
    decision = replicas.decision
    recommended = decision.recommended if decision is not None else None
    changed = before.desired_replicas != replicas.desired
    since = None
    if decision is not None and decision.since_s is not None:
        # The policy goes on from the time that it was given, or begins at this moment.
        since = before.recommended_since if decision.continued and before.recommended_since is not None else now
    keep_reason = not changed and not refresh and before.recommended_replicas == recommended and before.reason
    history = before.history
    if changed and before.desired_replicas is not None:
        change = ScalingChange(time=now, from_=before.desired_replicas, to=replicas.desired, reason=replicas.reason)
        history = (change, *history)[:HISTORY_LENGTH]
    return ScalingStatus(
        desired_replicas=replicas.desired,
        recommended_replicas=recommended,
        recommended_since=since,
        reason=before.reason if keep_reason else replicas.reason,
        last_scale_time=now if changed and before.desired_replicas is not None else before.last_scale_time,
        history=history,
    )
