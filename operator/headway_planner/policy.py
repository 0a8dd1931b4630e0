"""The policy: both actuators decided together from the load of the last seconds.

The tuner goes first, and the scaler is told when it raised the limits: a queue that fits into them needs no replica.
Tuning is never credited as capacity. This is the one entry; another policy replaces these two functions' insides.
"""

from dataclasses import dataclass, replace

from headway_planner.model import (
    BatchLimits,
    Direction,
    Latency,
    LoadView,
    ScaleConfig,
    ScaleDecision,
    ScaleEvent,
    ScaleState,
    TuneConfig,
    TuneDecision,
    TuneState,
)
from headway_planner.scale import decide_scale
from headway_planner.tune import clamp, decide_tune, direction_of

__all__ = [
    "BatchLimits",
    "Direction",
    "Latency",
    "LoadView",
    "PolicyConfig",
    "PolicyDecision",
    "PolicyState",
    "ScaleConfig",
    "ScaleDecision",
    "ScaleEvent",
    "ScaleState",
    "TuneConfig",
    "TuneDecision",
    "TuneState",
    "Views",
    "clamp",
    "decide_both",
    "decide_scale",
    "decide_tune",
    "direction_of",
]


@dataclass(frozen=True, slots=True)
class Views:
    """The load over the window of each actuator: the tuner's must hold nothing from before its last change."""

    scale: LoadView
    tune: LoadView


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What the user asks for. None: this actuator is not asked."""

    scale: ScaleConfig | None
    tune: TuneConfig | None


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What both actuators remember."""

    scale: ScaleState
    tune: TuneState


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """Both answers; None where the configuration asks for none."""

    scale: ScaleDecision | None
    tune: TuneDecision | None


def decide_both(views: Views, config: PolicyConfig, state: PolicyState, now_s: float) -> PolicyDecision:
    """The limits and the replicas for this moment."""
    tuned = decide_tune(views.tune, config.tune, state.tune, now_s) if config.tune else None
    if config.scale is None:
        return PolicyDecision(None, tuned)
    scale_state = state.scale
    if tuned is not None:
        raised_now = direction_of(state.tune.limits, tuned.limits) is Direction.UP
        raised_at = now_s if raised_now else _last_raise(state.tune)
        scale_state = replace(scale_state, limits=tuned.limits, raised_limits_at_s=raised_at)
    return PolicyDecision(decide_scale(views.scale, config.scale, scale_state, now_s), tuned)


def _last_raise(state: TuneState) -> float | None:
    return state.last_change_s if state.last_direction is Direction.UP else None
