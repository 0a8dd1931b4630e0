"""One trace, one seed: the fleet around it, and a policy through it, as one row of results.

Requests with a deadline beside others are served in two ways: in the same fleet, where they fill slack, or in a fleet of their
own with a scaler of its own (`separate`), whose GPU-hours are added. Ours is always the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway_cli.errors import CliError
from headway_cli.simulate import batch, engines, traces
from headway_cli.simulate.arguments import DEADLINE_S, FIRST_COME, LATE_LAST, Options
from headway_planner.model import BatchLimits
from headway_planner.rivals.bounds import BIN_S, work_bins, work_s
from headway_planner.rivals.catalog import CATALOG, WORK_BOUND, Context
from headway_planner.sim.arrivals import scaled
from headway_planner.sim.chance import Chance
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import TTFT_TARGET_MS, Arrival, End, Rank
from headway_planner.sim.outcome import Outcome, joined
from headway_planner.sim.setup import NEVER_DUE, Setup, told
from headway_planner.sim.signals import Bounds
from headway_planner.steps import StepModel

_START_SHARE = 0.6  # the fleet begins with replicas for the first five minutes at this share of an engine
_SPLIT_COPIES, _SPLIT_BATCH = 10, 11  # streams of randomness: copies of a scaled trace, batch work that is added
_BATCH_RESERVE = 0.2  # the operator's default where batch work runs beside better classes
MOST_REQUESTS = 20_000_000  # of one run: 12 GB at the 0.6 kB each that 200,000 took
MOST_REPLICAS = 10_000  # that a run begins with
_DUE_S = told(TTFT_TARGET_MS[Rank.REALTIME], TTFT_TARGET_MS[Rank.INTERACTIVE])
SEPARATE = "-separate"  # ends the name of a policy whose batch work has a fleet of its own

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Case:
    """A trace at one seed. `apart`: the same with two fleets, online and batch; None: there is nothing to part."""

    trace: str
    seed: int
    scale: float
    context: Context
    apart: tuple[Context, Context] | None = None


def cases(path: Path, options: Options) -> "CaseMaker":
    """Reads the trace once; each seed makes its case from it."""
    model = engines.load(options.engine_file or engines.BUILT_IN, options.engine)
    arrivals = traces.read(path, options.default_class, options.limit_s)
    if options.batch_deadline_s is not None:
        arrivals = traces.due(arrivals, options.batch_deadline_s)
    span_s = max(1.0, arrivals[-1].at_s)
    load = work_s(model, arrivals) / span_s
    if not load:
        raise CliError(f"engine {model.name}: its coefficients say that a token takes no time")
    scale = options.scale if options.scale is not None else float(max(1, round(options.load / load)))
    if scale * len(arrivals) > MOST_REQUESTS:
        raise CliError(
            f"{path}: {len(arrivals)} requests times {scale:g} are more than {MOST_REQUESTS}; a smaller --scale, --load or --duration makes fewer"
        )
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
        if options.batch_share:
            deadline_s = options.batch_deadline_s or DEADLINE_S
            arrivals = batch.added(arrivals, options.batch_share, deadline_s, model, Chance(seed).split(_SPLIT_BATCH))
        online = [one for one in arrivals if not one.deferrable]
        shared = 0 < len(online) < len(arrivals)
        apart = None
        if shared:
            waiting = [one for one in arrivals if one.deferrable]
            apart = (self._context(model, online, start_delay_s), self._context(model, waiting, start_delay_s))
        context = self._context(model, arrivals, start_delay_s, _BATCH_RESERVE if shared else 0.0)
        return Case(self._name, seed, self._scale, context, apart)

    def _context(
        self, model: StepModel, arrivals: Sequence[Arrival], start_delay_s: float, batch_reserve: float = 0.0
    ) -> Context:
        options = self._options
        bins = work_bins(model, arrivals)
        minute = max(1, round(60 / BIN_S))
        peak = max(sum(bins[index : index + minute]) / 60 for index in range(0, len(bins), minute))
        begin = bins[: 5 * minute]
        limits = BatchLimits(options.seqs, options.tokens)
        initial = max(1, math.ceil(sum(begin) / (BIN_S * len(begin)) / _START_SHARE))
        if initial > MOST_REPLICAS:
            raise CliError(
                f"{self._name}: its first minutes are work for {initial} replicas, at most {MOST_REPLICAS} are simulated"
            )
        setup = Setup(
            model=model,
            limits=limits,
            initial=initial,
            max_replicas=max(8, math.ceil(4 * peak)),
            start_delay_s=start_delay_s,
            mtbf_s=options.mtbf_hours * 3600,
            noise=options.noise,
            scrape_loss=options.scrape_loss,
            batch_reserve=batch_reserve,
            due_s=_DUE_S if options.order == LATE_LAST else NEVER_DUE,
        )
        bounds = Bounds(setup.min_replicas, setup.max_replicas, options.seqs, options.tokens_max, limits)
        strictest = min((one.rank for one in arrivals), default=Rank.INTERACTIVE)
        return Context(setup, bounds, arrivals, strictest)


def run(case: Case, policy: str, target: float | None = None, label: str | None = None) -> Row:
    """One policy through one case."""
    if policy == WORK_BOUND:
        return _work_bound(case)
    used = CATALOG[policy].default if target is None else target
    row = _row(case, label or policy, _outcome(case.context, case.seed, policy, used))
    if CATALOG[policy].sweep:
        row["target"] = used
    return row


def run_apart(case: Case, policy: str, targets: tuple[float, float] | None = None, label: str | None = None) -> Row:
    """One policy twice, for a fleet of the online and one of the batch requests; both together are the row."""
    if case.apart is None:
        raise ValueError(f"{case.trace} has nothing to part")
    used = targets or (CATALOG[policy].default,) * 2
    online, waiting = (
        _outcome(context, case.seed, policy, target) for context, target in zip(case.apart, used, strict=True)
    )
    row = _row(case, label or f"{policy}{SEPARATE}", joined(online, waiting))
    return row | {"target": used[0], "batch_target": used[1], "batch_gpu_hours": round(waiting.gpu_hours, 4)}


def _outcome(context: Context, seed: int, policy: str, target: float) -> Outcome:
    return simulate(context.setup, context.arrivals, CATALOG[policy].make(context, target), seed)


def _row(case: Case, label: str, outcome: Outcome) -> Row:
    shares = {rank: outcome.class_attainment(rank) for rank in Rank}
    kept = outcome.deadlines_met()
    return {
        **_head(case, label),
        "attainment": _rounded(outcome.attainment()),
        "attainment_by_class": {
            rank.name.lower(): _rounded(share) for rank, share in shares.items() if share is not None
        },
        "feasible_by_class": _feasible(case),
        **({} if kept is None else {"deadlines_met": _rounded(kept)}),
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
        "order": FIRST_COME if setup.due_s == NEVER_DUE else LATE_LAST,
        "requests": len(case.context.arrivals),
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None or value == float("inf") else round(value, digits)
