"""The control loop over one fleet in one pass: from the snapshot to `headway_planner.control` and back.

The policy's clock is the monotonic one. What it must remember comes from two places: the memory that the pass before left,
and, in the first pass of a process, the status.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from headway_operator.api.v1alpha1 import LLMDeployment, LLMDeploymentSpec, Slo
from headway_operator.core import clock, drain, objectives, scaling, tuning
from headway_operator.core.deadlines import Outlook, Windows, outlook
from headway_operator.core.intake import Reports, lost_pods, start_times
from headway_operator.core.load import FleetLoad, deciding_view, shorter, without_first_tokens
from headway_operator.core.memory import LoopMemory, Moment, carried, restored
from headway_operator.core.objectives import Verdict
from headway_operator.core.observed import EngineSample, Observed, PodView
from headway_operator.core.online import take_in
from headway_operator.core.work import EVERY
from headway_planner.control import CONTROL_WINDOW_S, Control, ControlConfig, Sight, control
from headway_planner.coordinator import CoordinatorConfig, Memory, asked
from headway_planner.model import LoadView

WINDOW_SEEN = 0.9  # share of the objective's window that must have been seen without traffic; old samples are thinned
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
        verdict: whose figures decide.
    """

    load: FleetLoad
    serving: tuple[PodView, ...]
    shares: tuple[float, float]
    revision: str
    window_s: float
    verdict: Verdict


def decide_loop(observed: Observed, fleet: LLMDeployment, facts: Facts) -> Looped:
    """Ask the policy about both actuators, as far as the modes let it be asked."""
    memory, deadline_s = observed.memory, objectives.deadline_s(fleet.spec.slo)
    if memory is None or memory.revision != facts.revision:
        moment = Moment(observed.now, observed.monotonic_s, deadline_s)
        fresh = restored(fleet.status.demand, facts.revision, moment)
        memory = fresh if memory is None else carried(memory, fresh)
    passed_s = observed.memory.passed_s if observed.memory is not None else None
    joined = max((pod.ready_since for pod in facts.serving if pod.ready_since is not None), default=None)
    told = (*_stamps(fleet, joined), *drain.stamps(observed.pods, memory.stamps, observed.now))
    stamps = clock.placed(told, memory.stamps, observed.now, observed.monotonic_s, passed_s)
    lost = lost_pods(observed)
    reports = Reports(
        facts.load.view.serving,
        facts.load.latest,
        _targets_ms(fleet.spec.slo),
        scaling.manual_replicas(fleet),
        start_times(facts.serving, lost),
        facts.load.silent,
    )
    taken = take_in(reports, memory, facts.verdict)
    tune_state = tuning.policy_state(fleet, stamps)
    config = _config(facts.verdict.spec(fleet.spec))
    found, remembered = control(
        Sight(taken.intake, *_views(observed, fleet, facts)),
        config,
        (scaling.policy_state(fleet, observed.pods, tune_state, stamps, joined), tune_state),
        memory.control,
        observed.monotonic_s,
    )
    after = LoopMemory(
        remembered,
        facts.revision,
        taken.engines,
        taken.intake.totals,
        observed.monotonic_s,
        stamps,
        taken.online,
        taken.arrived,
        lost,
        observed.memory.began_s if observed.memory is not None else observed.monotonic_s,
    )
    return Looped(found, after, _outlook(observed, reports, facts.window_s, config, remembered.demand))


def _outlook(
    observed: Observed, reports: Reports, window_s: float, config: ControlConfig, demand: Memory
) -> Outlook | None:
    if config.demand is None or math.isinf(config.demand.deadline_s):
        return None
    since_s = observed.monotonic_s - window_s
    ends = [_ends(observed.samples[name], since_s) for name in reports.chosen]
    seen = Windows(ends, len(reports.samples) / len(ends) if ends else 1.0)
    return outlook(config.demand.deadline_s, seen, asked(config.demand, demand), demand)


def _ends(series: Sequence[EngineSample], since_s: float) -> tuple[EngineSample, EngineSample]:
    """The first sample of a window, and the newest one."""
    first = bisect_left(series, since_s, hi=len(series) - 1, key=lambda one: one.taken_s)
    return series[first], series[-1]


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


def _targets_ms(slo: Slo | None) -> dict[str, float]:
    if slo is None:
        return {}
    if not slo.classes:
        return {EVERY: slo.ttft_target.target_milliseconds}
    return {
        one.workload_class.value: one.ttft_target.target_milliseconds
        for one in slo.objectives
        if one.deadline_seconds is None  # it takes the place of that target
    }


def _views(observed: Observed, fleet: LLMDeployment, facts: Facts) -> tuple[LoadView, LoadView]:
    """What decisions look at. The tuner's window is no longer than its cooldown: nothing from before its last change."""
    # A new operator has seen some seconds: a lull in them is no end of the traffic.
    quiet = facts.load.view.quiet and facts.load.view.span_s >= WINDOW_SEEN * facts.window_s

    def load(window_s: float) -> FleetLoad:
        found = shorter(facts.load, observed.samples, observed.monotonic_s, window_s, facts.shares)
        return replace(found, view=replace(found.view, quiet=quiet))

    long = load(CONTROL_WINDOW_S)
    cooldown_s = float(fleet.spec.tuning.cooldown_seconds)
    short = long if cooldown_s >= CONTROL_WINDOW_S else load(cooldown_s)
    scale = deciding_view(long, facts.verdict)
    if facts.verdict.only_deferred:
        # Larger batches serve work that waits, if nobody else is there.
        return scale, without_first_tokens(short.view)
    return scale, scale if short is long else deciding_view(short, facts.verdict)


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
