"""Several classes in one fleet: what each was promised, what it got, and whose objective decides.

    ratio of a class = observed percentile / target, of the time to first token or between tokens, whichever is larger
    decides          = the strictest (best) class with a ratio above 1; without one, the class with the largest ratio

So the fleet grows for whoever is missed, first for the one that may wait least; batch work that is late counts by its own
loose target, not by the strict one of the class beside it. Batch work with a deadline is judged by that alone and decides
nothing here (`deferred.py`). Only the time between tokens always has the strictest target of
all, since every class shares the steps; it is measured on the best class that had streams, so that limits are right for a
better one before it comes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway_operator.api.v1alpha1 import ClassObjective, LatencyTarget, LLMDeploymentSpec, Slo, WorkloadClass
from headway_operator.core import histogram
from headway_operator.core.histogram import Histogram
from headway_planner.model import MIN_REQUEST_SAMPLES, Latency, LoadView


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """What one class counted over a window; milliseconds."""

    ttft: Histogram = ()
    queue_wait: Histogram = ()
    itl: Histogram = ()


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """One class over a window, beside its objective.

    Attributes:
        objective: what it was promised.
        ttft: time to first token at the objective's percentile.
        queue_wait: the part of it before the first prefill step.
        itl: time between tokens at the objective's percentile.
        attainment: share of the first tokens that came within the target, 0..1; None without any.
    """

    objective: ClassObjective
    ttft: Latency
    queue_wait: Latency
    itl: Latency
    attainment: float | None

    @property
    def kind(self) -> WorkloadClass:
        """The class."""
        return self.objective.workload_class

    @property
    def ratio(self) -> float:
        """How near the class is to its targets; above 1 one of them is missed, 0 on too few requests and with a deadline."""
        if self.ttft.count < MIN_REQUEST_SAMPLES or self.objective.deadline_seconds is not None:
            return 0.0
        ttft = (self.ttft.high_ms or 0.0) / self.objective.ttft_target.target_milliseconds
        return max(ttft, (self.itl.high_ms or 0.0) / self.objective.inter_token_latency_target.target_milliseconds)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A fleet of several classes over the window of the objective.

    Attributes:
        loads: every class, better ones first.
        decides: whose time to first token decides.
        streams: whose time between tokens is measured: of the classes that had streams, the best.
    """

    loads: tuple[ClassLoad, ...]
    decides: ClassLoad
    streams: ClassLoad

    def naming(self, reason: str) -> str:
        """A reason with the class that it was judged by."""
        return f"{reason}; judged by class {self.decides.kind.value} (of {', '.join(load.kind for load in self.loads)})"

    @property
    def shares_slack(self) -> bool:
        """Whether batch work runs beside better classes."""
        return self.loads[-1].kind is WorkloadClass.BATCH

    @property
    def counts_batch(self) -> bool:
        """Whether batch work is demand: it misses its own target, and nobody better does."""
        return self.decides.kind is WorkloadClass.BATCH and self.decides.ratio > 1

    def own(self, slo: Slo) -> ClassLoad:
        """The fleet's own class, of requests that name none."""
        return next(load for load in self.loads if load.kind is slo.workload_class)

    def spec(self, spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
        """The spec with the targets that decisions work for; its class, and with it limits and bounds, stay its own."""
        targets: dict[str, LatencyTarget] = {
            "ttft": self.decides.objective.ttft_target,
            "inter_token_latency": self.loads[0].objective.inter_token_latency_target,
        }
        return spec.model_copy(update={"slo": spec.slo.model_copy(update=targets)}) if spec.slo else spec

    def view(self, view: LoadView, counts: Mapping[str, ClassCounts]) -> LoadView:
        """The view of another window with the latencies that decide; prefill and gauges stay those of all classes."""
        first, between = (_judge(one.objective, _of(counts, one.kind)) for one in (self.decides, self.streams))
        return replace(view, ttft=first.ttft, queue_wait=first.queue_wait, itl=between.itl)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose figures decide in a pass, and whether batch work is demand.

    Attributes:
        judgement: of a fleet of several classes; None: of one, whose figures are those of all requests.
        deadline: batch work has one. It is judged by that alone, and never is demand.
    """

    judgement: Judgement | None = None
    deadline: bool = False

    @property
    def apart(self) -> bool:
        """Whether batch work may be none of the demand, and is counted apart."""
        return self.deadline or (self.judgement is not None and self.judgement.shares_slack)

    @property
    def counts_batch(self) -> bool:
        """Whether batch work that is counted apart is demand now."""
        return self.judgement is not None and self.judgement.counts_batch

    @property
    def only_deferred(self) -> bool:
        """Whether the fleet has nothing but work with a deadline: nobody judges first tokens."""
        return self.deadline and self.judgement is None

    def spec(self, spec: LLMDeploymentSpec) -> LLMDeploymentSpec:
        """The spec with the targets that decisions work for."""
        return spec if self.judgement is None else self.judgement.spec(spec)


def verdict(slo: Slo | None, counts: Mapping[str, ClassCounts]) -> Verdict:
    """The verdict over a window. `counts`: by class."""
    return Verdict(judge(slo, counts), deadline=has_deadline(slo))


def deadline_s(slo: Slo | None) -> float:
    """In which batch work should be finished, from its arrival; infinite when it has no deadline."""
    seconds = slo.batch_deadline_seconds if slo is not None else None
    return math.inf if seconds is None else float(seconds)


def has_deadline(slo: Slo | None) -> bool:
    """Whether batch work has one."""
    return slo is not None and slo.batch_deadline_seconds is not None


def shares(slo: Slo | None) -> tuple[float, float]:
    """The percentiles of the time to first token and between tokens, 0..1."""
    if slo is None:
        return 0.95, 0.95
    return slo.ttft_target.percentile / 100, slo.inter_token_latency_target.percentile / 100


def judge(slo: Slo | None, counts: Mapping[str, ClassCounts]) -> Judgement | None:
    """Every class beside its objective; None for a fleet of one class, whose figures are those of all requests."""
    if slo is None or not slo.classes:
        return None
    loads = tuple(_judge(objective, _of(counts, objective.workload_class)) for objective in slo.objectives)
    missed = [load for load in loads if load.ratio > 1]
    present = [load for load in loads if load.itl.count]
    decides = missed[0] if missed else max(loads, key=lambda load: load.ratio)
    return Judgement(loads, decides, (present or list(loads))[0])


def _of(counts: Mapping[str, ClassCounts], kind: WorkloadClass) -> ClassCounts:
    return counts.get(kind.value, ClassCounts())


def _judge(objective: ClassObjective, counts: ClassCounts) -> ClassLoad:
    first, between = objective.ttft_target, objective.inter_token_latency_target
    return ClassLoad(
        objective=objective,
        ttft=latency(counts.ttft, first.percentile / 100),
        queue_wait=latency(counts.queue_wait, first.percentile / 100),
        itl=latency(counts.itl, between.percentile / 100),
        attainment=histogram.share_within(counts.ttft, first.target_milliseconds),
    )


def latency(pooled: Histogram, share: float) -> Latency:
    """The percentile (`share`, 0..1), the median and the count of a histogram."""
    return Latency(histogram.quantile(pooled, share), histogram.quantile(pooled, 0.5), histogram.count(pooled), share)
