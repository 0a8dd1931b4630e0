"""Both actuators decided together: the one entry of the control loop, for the operator and for the simulator.

1. The demand, the step model and the forecast are brought up to date (`coordinator.py`).
2. The limits (`tune.py`): measured latencies say whether and which way, the step model says how far (`feedforward.py`).
3. The replicas (`scale.py`): what the demand asks for, inside the user's bounds, windows and steps. While the demand is not
   known, the measured queue and latencies decide.

The tuner goes first, and the scaler is told when it raised the limits: a queue that fits into them needs no replica. Tuning
is never counted as capacity: an engine is what its baseline limits sustain.
"""

from dataclasses import dataclass, field, replace

from headway_planner import coordinator, feedforward
from headway_planner.coordinator import CoordinatorConfig, Intake, Memory
from headway_planner.model import (
    BatchLimits,
    Direction,
    Guide,
    LoadView,
    Needs,
    ScaleConfig,
    ScaleDecision,
    ScaleState,
    TuneConfig,
    TuneDecision,
    TuneState,
    direction_of,
)
from headway_planner.scale import decide_scale
from headway_planner.tune import decide_tune

CONTROL_WINDOW_S = 15.0  # that decisions look at: long enough to average, short enough to see the last change
TRIM_LEAST, TRIM_DOWN, TRIM_UP = 0.5, 0.9, 1.002  # per judgement: seconds to give way, minutes to come back


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen in a pass. `tune` must hold nothing from before the last change of the limits; `scale` is as fresh."""

    intake: Intake
    scale: LoadView
    tune: LoadView


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """What the user asks for. `scale`, `tune` None: this actuator is not asked. `demand` None: there is no objective."""

    demand: CoordinatorConfig | None
    scale: ScaleConfig | None
    tune: TuneConfig | None


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """What is remembered between two passes.

    Attributes:
        demand: of the coordinator.
        trim: share of the ITL target that the step model works with; below 1 after breaches that it did not predict.
    """

    demand: Memory = field(default_factory=Memory)
    trim: float = 1.0


@dataclass(frozen=True, slots=True)
class Control:
    """Both answers; None where the configuration asks for none. `needs`, `guide`: what they rest on, None: not known."""

    scale: ScaleDecision | None
    tune: TuneDecision | None
    needs: Needs | None
    guide: Guide | None


def control(
    sight: Sight, config: ControlConfig, state: tuple[ScaleState, TuneState], memory: ControlMemory, now_s: float
) -> tuple[Control, ControlMemory]:
    """The limits and the replicas for this moment. `now_s`: the clock of the times in `state`."""
    scale_state, tune_state = state
    needs, guide, demand = None, None, memory.demand
    if config.demand is not None:
        needs, demand = coordinator.assess(sight.intake, config.demand, demand)
        guide = _guide(sight.intake, config, demand, memory.trim)
    tuned, trim = None, memory.trim
    if config.tune is not None:
        tuned = decide_tune(sight.tune, config.tune, tune_state, now_s, guide)
        if not tuned.hold:
            trim = max(TRIM_LEAST, trim * TRIM_DOWN) if tuned.breach else min(1.0, trim * TRIM_UP)
        raised_now = direction_of(tune_state.limits, tuned.limits) is Direction.UP
        raised_at = now_s if raised_now else _last_raise(tune_state)
        scale_state = replace(scale_state, limits=tuned.limits, raised_limits_at_s=raised_at)
    scaled = None
    if config.scale is not None:
        scaled = decide_scale(sight.scale, config.scale, scale_state, now_s, needs)
        demand = coordinator.ordered(demand, scale_state.desired, scaled.replicas)
    return Control(scaled, tuned, needs, guide), ControlMemory(demand, trim)


def _guide(intake: Intake, config: ControlConfig, memory: Memory, trim: float) -> Guide | None:
    if config.demand is None or config.tune is None or memory.mix is None or intake.stale:
        return None
    model = coordinator.model_of(config.demand, memory)
    if model is None:
        return None
    baseline: BatchLimits = config.demand.baseline
    share = coordinator.pressure(intake, config.demand, model)
    return feedforward.guide(model, memory.mix, baseline, config.tune, share, trim)


def _last_raise(state: TuneState) -> float | None:
    return state.last_change_s if state.last_direction is Direction.UP else None
