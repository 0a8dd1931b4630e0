"""The control loop over one fleet in one pass: from the snapshot to `headway_planner.control` and back.

The policy's clock is the monotonic one. What it must remember comes from two places: the memory that the pass before left,
and, in the first pass of a process, the status.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec
from headway_operator.core import clock, drain, objectives, scaling, tuning
from headway_operator.core.deadlines import Outlook, outlook
from headway_operator.core.intake import Reports, start_times
from headway_operator.core.load import FleetLoad, deciding_view, shorter
from headway_operator.core.memory import LoopMemory, Moment, restored
from headway_operator.core.objectives import Judgement
from headway_operator.core.observed import Observed, PodView
from headway_operator.core.online import Apart, take_in
from headway_planner.control import CONTROL_WINDOW_S, Control, ControlConfig, Sight, control
from headway_planner.coordinator import CoordinatorConfig, Memory, asked
from headway_planner.model import LoadView

UNBOUNDED = 10_000  # replicas of a fleet whose count somebody else decides


@dataclass(frozen=True, slots=True)
class Looped:
    """What the policy decided, what the next pass should know, and how the work with a deadline stands, where there is any."""

    control: Control
    memory: LoopMemory
    outlook: Outlook | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a pass has found out before the policy is asked.

    Attributes:
        load: over the window of the objective.
        serving: the pods that take requests.
        shares: the percentiles of TTFT and ITL, 0..1.
        revision: that pods should have.
        window_s: of the objective.
        judgement: the classes of a fleet of several.
    """

    load: FleetLoad
    serving: tuple[PodView, ...]
    shares: tuple[float, float]
    revision: str
    window_s: float
    judgement: Judgement | None = None


def decide_loop(observed: Observed, fleet: LLMDeployment, facts: Facts) -> Looped:
    """Ask the policy about both actuators, as far as the modes let it be asked."""
    memory, deadline_s = observed.memory, objectives.deadline_s(fleet.spec.slo)
    if memory is None or memory.revision != facts.revision:
        stamps = memory.stamps if memory is not None else {}
        memory = replace(
            restored(fleet.status.demand, facts.revision, Moment(observed.now, observed.monotonic_s, deadline_s)),
            stamps=stamps,
        )
    passed_s = observed.memory.passed_s if observed.memory is not None else None
    joined = max((pod.ready_since for pod in facts.serving if pod.ready_since is not None), default=None)
    told = (*_stamps(fleet, joined), *drain.stamps(observed.pods, memory.stamps, observed.now))
    stamps = clock.placed(told, memory.stamps, observed.now, observed.monotonic_s, passed_s)
    sound = {name: observed.samples[name][-1] for name in facts.load.heard}
    taken = take_in(
        Reports(facts.load.view.serving, sound),
        memory,
        scaling.manual_replicas(fleet),
        start_times(facts.serving),
        Apart(facts.judgement, deadline=math.isfinite(deadline_s)),
    )
    seen = taken.intake
    tune_state = tuning.policy_state(fleet, stamps)
    config = _config(fleet.spec if facts.judgement is None else facts.judgement.spec(fleet.spec))
    found, remembered = control(
        Sight(seen, *_views(observed, fleet, facts)),
        config,
        (scaling.policy_state(fleet, observed.pods, tune_state, stamps, joined), tune_state),
        memory.control,
        observed.monotonic_s,
    )
    after = LoopMemory(
        remembered,
        facts.revision,
        taken.engines,
        seen.totals,
        observed.monotonic_s,
        stamps,
        taken.online,
        taken.arrived,
    )
    return Looped(found, after, _outlook(observed, facts, config, remembered.demand))


def _outlook(observed: Observed, facts: Facts, config: ControlConfig, demand: Memory) -> Outlook | None:
    if config.demand is None or math.isinf(config.demand.deadline_s):
        return None
    since_s = observed.monotonic_s - facts.window_s
    windows = [[one for one in observed.samples[name] if one.taken_s >= since_s] for name in facts.load.heard]
    return outlook(config.demand.deadline_s, [one for one in windows if one], asked(config.demand, demand), demand)


def _config(spec: LLMDeploymentSpec) -> ControlConfig:
    scale, tune = scaling.policy_config(spec), tuning.policy_config(spec)
    if spec.slo is None:
        return ControlConfig(None, scale, tune)
    demand = CoordinatorConfig(
        min_replicas=scale.min_replicas if scale is not None else 1,
        max_replicas=scale.max_replicas if scale is not None else UNBOUNDED,
        ttft_target_ms=spec.slo.ttft_target.target_milliseconds,
        itl_target_ms=spec.slo.inter_token_latency_target.target_milliseconds,
        baseline=tuning.baseline(spec),
        hold_s=spec.scaling.scale_down.stabilization_window_seconds,
        deadline_s=objectives.deadline_s(spec.slo),
    )
    return ControlConfig(demand, scale, tune)


def _views(observed: Observed, fleet: LLMDeployment, facts: Facts) -> tuple[LoadView, LoadView]:
    """What decisions look at. The tuner's window is no longer than its cooldown: nothing from before its last change."""
    cooldown_s = float(fleet.spec.tuning.cooldown_seconds)

    def view(window_s: float) -> LoadView:
        short = shorter(facts.load, observed.samples, observed.monotonic_s, window_s, facts.shares)
        seen = deciding_view(short, facts.judgement, deadline=math.isfinite(objectives.deadline_s(fleet.spec.slo)))
        return replace(seen, quiet=facts.load.view.quiet)

    scale = view(CONTROL_WINDOW_S)
    return scale, scale if cooldown_s >= CONTROL_WINDOW_S else view(cooldown_s)


def _stamps(fleet: LLMDeployment, joined: datetime | None) -> Iterable[datetime]:
    """Every time of the status that a decision may ask the age of."""
    status = fleet.status
    if status.scaling is not None:
        yield from (change.time for change in status.scaling.history)
        if status.scaling.recommended_since is not None:
            yield status.scaling.recommended_since
    if status.tuning is not None:
        yield from (change.time for change in status.tuning.history[:1])
    if joined is not None:
        yield joined
