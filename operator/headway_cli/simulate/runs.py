"""One trace, one seed: the fleet around it, and a policy through it, as one row of results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway_cli.simulate import engines, traces
from headway_cli.simulate.arguments import Options
from headway_planner.model import BatchLimits
from headway_planner.rivals.bounds import BIN_S, work_bins, work_s
from headway_planner.rivals.catalog import CATALOG, WORK_BOUND, Context
from headway_planner.sim.arrivals import scaled
from headway_planner.sim.chance import Chance
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import TTFT_TARGET_MS, Arrival, End, Rank
from headway_planner.sim.outcome import Outcome
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Bounds
from headway_planner.steps import StepModel

# Share of the requests inside their TTFT target that a tuned rival and the clairvoyant bound must reach.
GOALS = {Rank.REALTIME: 0.995, Rank.INTERACTIVE: 0.999, Rank.BATCH: 1.0}
_START_SHARE = 0.6  # the fleet begins with replicas for the first five minutes at this share of an engine
_SPLIT_COPIES = 10  # stream of randomness that makes the copies of a scaled trace

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Case:
    """A trace at one seed."""

    trace: str
    seed: int
    scale: float
    context: Context


def cases(path: Path, options: Options) -> "CaseMaker":
    """Reads the trace once; each seed makes its case from it."""
    model = engines.load(options.engine_file or engines.BUILT_IN, options.engine)
    arrivals = traces.read(path, options.default_class, options.limit_s)
    span_s = max(1.0, arrivals[-1].at_s)
    load = work_s(model, arrivals) / span_s
    scale = options.scale if options.scale is not None else float(max(1, round(options.load / load)))
    return CaseMaker(path.name.removesuffix(".gz").removesuffix(".csv"), options, arrivals, scale)


class CaseMaker:
    """The cases of one trace."""

    def __init__(self, name: str, options: Options, arrivals: Sequence[Arrival], scale: float) -> None:
        self._name = name
        self._options = options
        self._arrivals = arrivals
        self._scale = scale

    def case(self, seed: int, start_delay_s: float) -> Case:
        """The trace as one seed scales it, and a fleet whose upper bound no sensible policy meets."""
        options = self._options
        model = engines.load(options.engine_file or engines.BUILT_IN, options.engine)
        arrivals = scaled(self._arrivals, self._scale, options.spread_s, Chance(seed).split(_SPLIT_COPIES))
        bins = work_bins(model, arrivals)
        minute = max(1, round(60 / BIN_S))
        peak = max(sum(bins[index : index + minute]) / 60 for index in range(0, len(bins), minute))
        begin = bins[: 5 * minute]
        limits = BatchLimits(options.seqs, options.tokens)
        setup = Setup(
            model=model,
            limits=limits,
            initial=max(1, math.ceil(sum(begin) / (BIN_S * len(begin)) / _START_SHARE)),
            max_replicas=max(8, math.ceil(4 * peak)),
            start_delay_s=start_delay_s,
            mtbf_s=options.mtbf_hours * 3600,
            noise=options.noise,
            scrape_loss=options.scrape_loss,
        )
        bounds = Bounds(setup.min_replicas, setup.max_replicas, options.seqs, options.tokens_max, limits)
        strictest = min((one.rank for one in arrivals), default=Rank.INTERACTIVE)
        return Case(self._name, seed, self._scale, Context(setup, bounds, arrivals, strictest))


def run(case: Case, policy: str, target: float | None = None, label: str | None = None) -> Row:
    """One policy through one case."""
    if policy == WORK_BOUND:
        return _work_bound(case)
    context = case.context
    used = CATALOG[policy].default if target is None else target
    outcome = simulate(context.setup, context.arrivals, CATALOG[policy].make(context, used), case.seed)
    row = _row(case, label or policy, outcome)
    if CATALOG[policy].sweep:
        row["target"] = used
    return row


def best_target(case: Case, policy: str) -> float:
    """The target of the fewest hours that meets the goals of all classes, in hindsight; else of the best attainment."""
    rows = [(run(case, policy, target), target) for target in CATALOG[policy].sweep]
    return min(rows, key=lambda pair: _merit(pair[0]))[1]


def meets_goals(row: Row) -> bool:
    """Whether every class has the attainment that is asked for."""
    return not _merit(row)[0]


def _merit(row: Row) -> tuple[bool, float]:
    by_class, hours = row["attainment_by_class"], row["gpu_hours"]
    if not isinstance(by_class, dict) or not isinstance(hours, float):
        raise TypeError("not a row of results")
    feasible = row["feasible_by_class"]
    if not isinstance(feasible, dict):
        raise TypeError("not a row of results")
    short = max(GOALS[Rank[name.upper()]] * feasible[name] - share for name, share in by_class.items())
    return (short > 0, short if short > 0 else hours)


def _row(case: Case, label: str, outcome: Outcome) -> Row:
    shares = {rank: outcome.attainment(rank) for rank in Rank}
    return {
        **_head(case, label),
        "attainment": _rounded(outcome.attainment()),
        "attainment_by_class": {
            rank.name.lower(): _rounded(share) for rank, share in shares.items() if share is not None
        },
        "feasible_by_class": _feasible(case),
        "gpu_hours": round(outcome.gpu_hours, 4),
        "replicas_mean": round(outcome.replicas_mean, 3),
        "reversals_per_hour": round(outcome.reversals_per_hour, 2),
        "cut_streams": outcome.cut_streams,
        "tpot_attainment": _rounded(outcome.tpot_attainment()),
        "ttft_p95_ms": _rounded(outcome.ttft_quantile_ms(0.95), 1),
        "ttft_p99_ms": _rounded(outcome.ttft_quantile_ms(0.99), 1),
        "limit_changes": outcome.limit_changes,
        "preemptions": outcome.preemptions,
        **{end.value: outcome.ended(end) for end in (End.FINISHED, End.REJECTED, End.EXPIRED)},
    }


def _feasible(case: Case) -> dict[str, float]:
    """Share of the requests of each class whose own prefill, on an idle engine, ends inside the TTFT target."""
    model, budget = case.context.setup.model, case.context.setup.limits.tokens
    longest = {rank: _longest(model, budget, TTFT_TARGET_MS[rank]) for rank in Rank}
    counts = {rank: [one.inputs <= longest[rank] for one in case.context.arrivals if one.rank is rank] for rank in Rank}
    return {rank.name.lower(): round(sum(fits) / len(fits), 6) for rank, fits in counts.items() if fits}


def _longest(model: StepModel, budget: int, target_ms: float) -> int:
    low, high = 0, model.kv_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if model.prefill_ms(middle, budget) <= target_ms else (low, middle - 1)
    return low


def _work_bound(case: Case) -> Row:
    setup, arrivals = case.context.setup, case.context.arrivals
    seconds = work_s(setup.model, arrivals)
    present = sorted({one.rank for one in arrivals})
    return {
        **_head(case, WORK_BOUND),
        "attainment": 1.0,
        "attainment_by_class": {rank.name.lower(): 1.0 for rank in present},
        "gpu_hours": round(seconds * setup.model.gpus / 3600, 4),
        "replicas_mean": round(seconds / max(1.0, arrivals[-1].at_s), 3),
        "reversals_per_hour": 0.0,
        "cut_streams": 0,
    }


def _head(case: Case, label: str) -> Row:
    setup = case.context.setup
    return {
        "trace": case.trace,
        "policy": label,
        "seed": case.seed,
        "start_delay_s": setup.start_delay_s,
        "scale": case.scale,
        "engine": setup.model.name,
        "requests": len(case.context.arrivals),
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None or value == float("inf") else round(value, digits)
