"""What a diagnosis rests on: one fleet's load, limits and supply, and the tests that every rule asks of them.

A threshold is an edge with width. A symptom that is reported already stays while the value is within a tenth of the edge,
so a value that wavers there does not make it come and go.
"""

import math
from dataclasses import dataclass, replace
from statistics import median

from headway_operator.api.v1alpha1 import (
    LimitValues,
    LLMDeployment,
    LLMDeploymentSpec,
    ScheduleSetAside,
    WorkloadClass,
    baseline_limits,
)
from headway_operator.core import pods, rivals
from headway_operator.core.deadlines import Outlook
from headway_operator.core.intake import lost_pods, start_times
from headway_operator.core.load import FleetLoad, deciding_view, fleet_load
from headway_operator.core.objectives import Verdict
from headway_operator.core.observed import Observed
from headway_planner.model import MIN_REQUEST_SAMPLES, LoadView
from headway_planner.tune import CAP_BINDS

EASE = 0.1  # width of an edge, as a share of it
KV_BINDS = 0.9  # use of the fullest KV cache from which on it holds requests back
KV_CROWDED = 0.7  # use of the KV cache, a mean, from which on sequences give way for want of blocks
CLEAR_MAJORITY = 0.5  # share of the time to first token that makes a part of it the cause


@dataclass(frozen=True, slots=True)
class Supply:
    """Replicas on their way.

    Attributes:
        warming: pods that start and will serve.
        blocked: pods that no node takes.
        start_s: median time of the newest serving pods from creation to ready, see `start_times`; None when none is known,
            or no pod starts.
        oldest_warming_s: age of the pod that has been starting for longest.
    """

    warming: int = 0
    blocked: int = 0
    start_s: float | None = None
    oldest_warming_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fleet over one window.

    Attributes:
        spec: with its open windows laid over.
        limits: in force.
        load: over the window of the objective.
        growth: change of the arrivals, in requests/s per second; None when the window is too short to tell.
        rivals: one sentence for each foreign write that was seen.
        set_aside: open windows of spec.schedules that contradict others.
        outlook: of the work with a deadline; None where there is none.
        raised_s: seconds since the limits were raised, if that was their last change, else infinite.
        judged: in a fleet of several classes the one whose objective decides; its latencies are in the view.
    """

    spec: LLMDeploymentSpec
    limits: LimitValues
    load: FleetLoad
    supply: Supply = Supply()
    growth: float | None = None
    rivals: tuple[str, ...] = ()
    set_aside: tuple[ScheduleSetAside, ...] = ()
    judged: WorkloadClass | None = None
    outlook: Outlook | None = None
    raised_s: float = math.inf

    @property
    def view(self) -> LoadView:
        """The pooled window."""
        return self.load.view

    @property
    def window_s(self) -> float:
        """Length of the window in seconds, as far as it was observed."""
        return self.load.view.span_s

    def late(self, was: bool) -> bool:
        """Whether first tokens miss their target, on enough requests."""
        target, ttft = self.ttft_target_ms, self.view.ttft
        if target is None or ttft.high_ms is None or ttft.count < MIN_REQUEST_SAMPLES:
            return False
        return above(ttft.high_ms, target, was)

    @property
    def ttft_target_ms(self) -> float | None:
        """Target of the time to first token."""
        return float(self.spec.slo.ttft_target.target_milliseconds) if self.spec.slo else None

    @property
    def itl_target_ms(self) -> float | None:
        """Target of the time between tokens."""
        return float(self.spec.slo.inter_token_latency_target.target_milliseconds) if self.spec.slo else None

    @property
    def queue_share(self) -> float:
        """Queue wait as a share of queue wait and prefill, both at the objective's percentile; 0..1."""
        queue, prefill = self.view.queue_wait.high_ms or 0.0, self.view.prefill.high_ms or 0.0
        return queue / (queue + prefill) if queue + prefill > 0 else 0.0

    @property
    def prompt_length(self) -> float | None:
        """Mean tokens of a prompt; None on too few. The engines count tokens and requests, not lengths."""
        begun = self.load.share * self.view.prefill.count
        return self.load.prompt_tokens / begun if begun >= MIN_REQUEST_SAMPLES else None

    @property
    def backlog_ms(self) -> float:
        """How long a request that comes now will wait, at the rate at which requests begin; infinite when none does."""
        begun = self.load.share * self.view.queue_wait.count
        return 1000 * self.view.waiting * self.window_s / begun if begun else math.inf

    def slots_bind(self, was: bool) -> bool:
        """Whether the busiest engine runs as many sequences as it may."""
        return above(self.load.busiest_mean, CAP_BINDS * self.limits.max_num_seqs, was)

    def kv_binds(self, was: bool) -> bool:
        """Whether the KV cache holds requests back: it is full, or running sequences give way for want of blocks.

        Sequences of a lesser class also give way to better ones, with room in the cache.
        """
        often = self.load.preemptions > 0 and self.load.preemptions * 20 >= self.view.finished
        if often and above(self.view.kv_usage, KV_CROWDED, was):
            return True
        crowded = above(self.view.kv_usage, KV_BINDS, was) and self.view.waiting >= 1
        return crowded and not self.slots_bind(False)

    @property
    def rate_each(self) -> float | None:
        """Requests/s that one reporting replica finishes; None on too few."""
        if self.view.finished < MIN_REQUEST_SAMPLES or self.window_s <= 0 or self.view.reporting == 0:
            return None
        return self.view.finished / self.window_s / self.view.reporting


def above(value: float, edge: float, was: bool) -> bool:
    """`value >= edge`, eased for a symptom that is reported already."""
    return value >= edge * (1 - EASE if was else 1.0)


def below(value: float, edge: float, was: bool) -> bool:
    """`value <= edge`, eased for a symptom that is reported already."""
    return value <= edge * (1 + EASE if was else 1.0)


def supply(observed: Observed) -> Supply:
    """How long this fleet's pods take to start, and which are at it; of a fleet in which none starts, that alone."""
    unready = [pod for pod in observed.pods if not pod.ready]
    warming = [pod for pod in unready if pods.warming(pod)]
    blocked = sum(1 for pod in unready if pods.blocked(pod))
    if not warming:
        return Supply(blocked=blocked)
    starts = start_times((pod for pod in observed.pods if pods.serving(pod)), lost_pods(observed))
    return Supply(
        warming=len(warming),
        blocked=blocked,
        start_s=median(starts) if starts else None,
        oldest_warming_s=max((pods.age_s(pod, observed.now) for pod in warming), default=0.0),
    )


def growth(observed: Observed, load: FleetLoad) -> float | None:
    """The change of the arrivals between the two halves of the window, in requests/s per second."""
    half_s = load.view.span_s / 2
    if half_s < 4:
        return None
    serving = [pod.name for pod in observed.pods if pods.serving(pod)]
    late = fleet_load(serving, observed.samples, observed.monotonic_s, half_s).view
    early_s = load.view.span_s - late.span_s
    if late.span_s <= 0 or early_s <= 0:
        return None
    before = (load.view.arrivals - late.arrivals) / early_s
    return (late.arrivals / late.span_s - before) / (load.view.span_s / 2)


def gather(
    observed: Observed, fleet: LLMDeployment, limits: LimitValues, load: FleetLoad, verdict: Verdict
) -> Evidence:
    """The evidence of one pass, but for what its windows set aside, the last raise and the outlook of work with a deadline.

    `fleet`: with its open windows laid over; `load` and `verdict`: over the window of the objective.
    """
    found = supply(observed)
    return Evidence(
        spec=verdict.spec(fleet.spec),
        limits=limits,
        load=replace(load, view=deciding_view(load, verdict)),
        supply=found,
        growth=growth(observed, load) if found.warming else None,
        rivals=rivals.sentences(observed, fleet, rivals.known_limits(fleet, limits, baseline_limits(fleet.spec))),
        judged=None if verdict.judgement is None else verdict.judgement.decides.kind,
    )
