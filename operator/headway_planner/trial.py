"""A fleet of a fixed count under its planned load, in the simulator: what the advisor's estimate is held against.

Without a trace the load is what the estimate assumes: Poisson arrivals of requests of the mean lengths. Percentiles of the
time between tokens are read from the simulator's histograms, at the upper end of a bucket: up to 12 % too high.

The estimate knows nothing of requests that come together to one replica, and its p95 TTFT is up to 40 % low. So a fleet whose
estimate is over half of a target is tried before it is advised, and made larger until the simulator keeps its targets too.
Where half as many again do not keep them, more hardly help: what is late does not wait for a replica, but for its own prefill
and the step under way, and the row says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headway_planner.advisor import LIMITS, assess
from headway_planner.offer import ClassDemand, Demand, Engine, Row
from headway_planner.sim.chance import Chance
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import Arrival, End, Job, Rank
from headway_planner.sim.outcome import ttft_ms
from headway_planner.sim.policy import Decision
from headway_planner.sim.setup import Setup, told
from headway_planner.sim.signals import FleetView, quantile
from headway_planner.steps import StepModel

REQUESTS = 20_000
REQUESTS_TRIED = 10_000  # before a count is advised
RATE_TRIED = 100.0  # requests per second: of a larger fleet a part is tried, with its part of the load
SEED_TRIED = 7_919
NEAR = 0.5  # of a target
SHORTEST_S, LONGEST_S = 120.0, 3600.0
MOST_TIMES = 8  # as many replicas are tried for a trace, whose bursts the estimate does not know
MOST_MORE = 0.5  # of the estimated count may be added before it is the engine that is too slow
BATCH_RESERVE = 0.2  # the operator's default where batch work runs beside better classes


@dataclass(frozen=True, slots=True)
class ClassTrial:
    """What the requests of one class got. `attainment`: share with the first token inside its target, or finished by the deadline.

    None where no request came. A p95 is infinite when more than 5 % never got a first token.
    """

    name: str
    requests: int
    ttft_p95_ms: float | None
    attainment: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulated run.

    Attributes:
        itl_p95_ms: over all gaps between tokens; None when there was none.
        unfinished: requests.
        confirmed: the p95 TTFT of every class is inside its target, and each deadline was met.
    """

    replicas: int
    span_s: float
    requests: int
    itl_p95_ms: float | None
    preemptions: int
    unfinished: int
    confirmed: bool
    classes: tuple[ClassTrial, ...]


class _Fixed:
    """Keeps the count; remembers the gaps between tokens that it was shown."""

    tick_s = 10.0
    lag_s = 0.0

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self.gaps: Sequence[int] = ()

    def decide(self, view: FleetView) -> Decision:
        """The same count."""
        self.gaps = view.latest.counts.itl
        return Decision(self._replicas, "fixed")


def poisson(demand: Demand, seed: int, requests: int = REQUESTS) -> list[Arrival]:
    """So many requests of the demand, more or less, by arrival."""
    span_s = min(LONGEST_S, max(SHORTEST_S, requests / demand.rate))
    found = []
    for one in demand.classes:
        rank = Rank[one.name.upper()]
        chance = Chance(seed).split(rank)
        inputs, outputs = max(1, round(one.mix.inputs)), max(1, round(one.mix.outputs))
        at_s = chance.exponential(1 / one.rate)
        while at_s < span_s:
            found.append(Arrival(at_s, inputs, outputs, rank, one.deadline_s))
            at_s += chance.exponential(1 / one.rate)
    return sorted(found, key=lambda arrival: arrival.at_s)


def trial(model: StepModel, replicas: int, demand: Demand, arrivals: Sequence[Arrival], seed: int) -> Trial:
    """Run the arrivals through the fleet; targets are those of the demand."""
    reserve = BATCH_RESERVE if demand.waiting and demand.online else 0.0
    setup = Setup(
        model,
        LIMITS,
        initial=replicas,
        min_replicas=replicas,
        max_replicas=replicas,
        batch_reserve=reserve,
        due_s=_due_s(demand),
    )
    fixed = _Fixed(replicas)
    outcome = simulate(setup, arrivals, fixed, seed)
    by_rank: dict[int, list[Job]] = {}
    for job in outcome.jobs:
        by_rank.setdefault(job.rank, []).append(job)
    classes = tuple(_class(one, by_rank.get(Rank[one.name.upper()], ())) for one in demand.classes)
    targets = zip(classes, demand.classes, strict=True)
    return Trial(
        replicas=replicas,
        span_s=outcome.end_s,
        requests=len(outcome.jobs),
        itl_p95_ms=quantile(fixed.gaps, 0.95),
        preemptions=outcome.preemptions,
        unfinished=len(outcome.jobs) - outcome.ended(End.FINISHED),
        confirmed=all(_kept(seen, aim) for seen, aim in targets),
        classes=classes,
    )


def _due_s(demand: Demand) -> tuple[float, float, float]:
    """What the engines know of the targets of the demand."""
    targets_ms = {one.name: one.ttft_ms for one in demand.classes}
    return told(targets_ms.get("realtime", math.inf), targets_ms.get("interactive", math.inf))


def enough(model: StepModel, first: Trial, demand: Demand, arrivals: Sequence[Arrival], seed: int) -> Trial | None:
    """The trial of a larger fleet that keeps every target, within a tenth of the fewest replicas; None: not with 8 times as many."""
    replicas = first.replicas
    while replicas < MOST_TIMES * first.replicas:
        replicas += max(1, replicas // 10)
        found = trial(model, replicas, demand, arrivals, seed)
        if found.confirmed:
            return found
    return None


def tried(engine: Engine, demand: Demand, row: Row) -> Row:
    """The row, or where it is nearly full and misses a target in the simulator the one of the count that keeps all of them."""
    if not row.replicas or row.lateness <= NEAR:
        return row
    parts = max(1, min(row.replicas, int(demand.rate / RATE_TRIED)))
    part = Demand(tuple(replace(one, rate=one.rate / parts) for one in demand.classes))
    arrivals = poisson(part, SEED_TRIED, REQUESTS_TRIED)
    first = trial(engine.model, row.replicas // parts, part, arrivals, SEED_TRIED)
    if first.confirmed:
        return row
    most = trial(engine.model, first.replicas + max(1, round(MOST_MORE * first.replicas)), part, arrivals, SEED_TRIED)
    if not most.confirmed:
        counts = f"{parts * first.replicas} and {parts * most.replicas} replicas in the simulator"
        why = _unkept(engine.model, part, (first, most), counts)
        return Row(row.gpu, row.tp, row.interconnect, 0, why, row.ttft_p95_ms, row.itl_p95_ms, kv_tokens=row.kv_tokens)
    found = enough(engine.model, first, part, arrivals, SEED_TRIED) or most
    return replace(assess(engine, demand, found.replicas * parts), estimated=row.replicas)


def _unkept(model: StepModel, demand: Demand, trials: tuple[Trial, Trial], counts: str) -> str:
    """Which target more replicas do not keep, what binds instead, and the cure. `counts`: of the two trials, in words."""
    classes = zip(demand.classes, trials[0].classes, trials[1].classes, strict=True)
    aim, few, many = next(one for one in classes if not _kept(one[2], one[0]))
    others = [one.name for one in demand.classes if one is not aim]
    cure = "take a faster GPU or more TP" + (f", or serve it apart from {' and '.join(others)}" if others else "")
    if aim.deadline_s < math.inf:
        return f"infeasible: {aim.name} is not done in {aim.deadline_s:.0f} s with {counts}; {cure}"
    return (
        f"infeasible: p95 TTFT {few.ttft_p95_ms:.0f} and {many.ttft_p95_ms:.0f} ms > {aim.ttft_ms:.0f} ms ({aim.name}) with {counts}: "
        f"own prefill {model.prefill_ms(aim.longest, LIMITS.tokens):.0f} ms and steps with prompts bind; {cure}"
    )


def _kept(seen: ClassTrial, aim: ClassDemand) -> bool:
    if aim.deadline_s < math.inf:
        return seen.attainment in (None, 1.0)
    return (seen.ttft_p95_ms or 0.0) <= aim.ttft_ms


def _class(aim: ClassDemand, jobs: Sequence[Job]) -> ClassTrial:
    times = sorted(map(ttft_ms, jobs))
    if not times:
        return ClassTrial(aim.name, 0, None, None)
    if aim.deadline_s < math.inf:
        inside = sum(job.end is End.FINISHED and job.end_s - job.arrival_s <= job.deadline_s for job in jobs)
    else:
        inside = sum(time_ms <= aim.ttft_ms for time_ms in times)
    return ClassTrial(aim.name, len(times), times[int(0.95 * len(times))], inside / len(times))
