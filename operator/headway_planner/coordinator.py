"""One coordinator for both actuators: limits each second from a step model, replicas every 5 s from replayed demand.

Demand is counted where requests come in, never where they end, and in engine seconds, never in requests (`Intake`). Every
5 s it is answered how many replicas are needed:

- `forecast`: the bursts of the last minutes, at the level that the demand may reach until an ordered replica serves: the
  level of the last minute times the growth that past horizons of that length did not exceed, in the given quantile;
- `reactive`: the demand of the last seconds plus the backlog, worked off in `DRAIN_S`. Whatever the forecast says, the fleet
  is not smaller.

More is ordered at once, starting replicas included in the count. Fewer are kept only when they suffice over the longer
horizon of a removal and a new start, in every answer of the last `HOLD_S`.

Limits: see `feedforward.py`. A count never rests on limits above the baseline.
"""

import math
from dataclasses import dataclass, replace

from headway_planner.capacity import Mix, sustained
from headway_planner.feedforward import choose_limits
from headway_planner.model import BatchLimits
from headway_planner.staffing import UTILIZATION, centred_mean, growth, needed, rolling_mean
from headway_planner.steps import StepModel

REPLAY_S, HISTORY_S, LEVEL_S, REACT_S = 900, 3600, 60, 10
PLAN_EVERY_S, HOLD_S, DRAIN_S, SETTLE_S = 5.0, 60.0, 30.0, 15.0
LEVEL_FLOOR = 0.5  # engines
SUMS_HALF_LIFE_S = 120.0  # of what the mean lengths rest on
START_PRIOR_S, START_MARGIN = 90.0, 1.3
MIX_PRIOR = Mix(1000.0, 200.0)
LEARN_S = 300.0  # of demand seen before anything is removed
GROWTH_PRIOR = 1.2  # until three horizons have been seen
PEAK_MARGIN = 1.1  # a forecast goes this far above the highest level seen
SLACK = 0.5  # share of the TTFT target that may pass in the queue


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """What the user asks for, and the engine.

    Attributes:
        late_allowed: share of the requests that may miss the TTFT target.
        up_quantile, down_quantile: of the growth that is prepared for, before ordering and before removing.
        tokens_max: upper bound of the token budget.
    """

    model: StepModel
    min_replicas: int
    max_replicas: int
    ttft_target_ms: float
    itl_target_ms: float
    baseline: BatchLimits
    tokens_max: int
    late_allowed: float = 0.002
    up_quantile: float = 0.9
    down_quantile: float = 0.8


@dataclass(frozen=True, slots=True)
class Intake:
    """The fleet now. Counters run since any start; `stale`: too few replicas answer to decide on."""

    at_s: float
    desired: int
    serving: int
    arrivals: int
    input_tokens: int
    input_squares: int
    finished: int
    output_tokens: int
    waiting: int
    queued_tokens: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the coordinator remembers. `work`: engines of demand, one value a second, oldest first."""

    last: Intake | None = None
    limits: BatchLimits | None = None
    work: tuple[float, ...] = ()
    mix: Mix = MIX_PRIOR
    sums: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # arrivals, input tokens, finished, output tokens
    planned_s: float = -math.inf
    answers: tuple[tuple[float, int], ...] = ()  # (time, replicas that suffice for a removal)
    orders: tuple[float, ...] = ()  # times of replicas ordered and not serving yet
    starts: tuple[float, ...] = ()  # seconds from order to service, newest last


@dataclass(frozen=True, slots=True)
class Coordinated:
    """Both answers and why."""

    replicas: int
    limits: BatchLimits
    reason: str


def coordinate(intake: Intake, config: CoordinatorConfig, memory: Memory) -> tuple[Coordinated, Memory]:
    """The replicas and the limits for this moment, and what to remember."""
    limits = memory.limits or config.baseline
    if intake.stale:
        return Coordinated(intake.desired, limits, "hold: too few replicas answer"), memory
    memory = _observed(intake, config, memory)
    limits = choose_limits(
        config.model, memory.mix, config.baseline, config.itl_target_ms, config.tokens_max, _pressure(intake, config)
    )
    memory = replace(memory, limits=limits)
    if intake.at_s - memory.planned_s < PLAN_EVERY_S:
        return Coordinated(intake.desired, limits, "between two plans"), memory
    wanted, reason, memory = _plan(intake, config, memory)
    if wanted > intake.desired:
        memory = replace(memory, orders=(*memory.orders, *(intake.at_s,) * (wanted - intake.desired)))
    elif wanted < intake.desired:
        memory = replace(memory, orders=memory.orders[: max(0, len(memory.orders) - (intake.desired - wanted))])
    return Coordinated(wanted, limits, reason), replace(memory, planned_s=intake.at_s)


def start_s(memory: Memory) -> float:
    """The time from order to service that most starts keep; the median, because many orders at once delay each other."""
    seen = sorted((*memory.starts, START_PRIOR_S, START_PRIOR_S))
    return START_MARGIN * seen[(len(seen) - 1) // 2]


def _observed(intake: Intake, config: CoordinatorConfig, memory: Memory) -> Memory:
    last = memory.last
    if last is None:
        return replace(memory, last=intake)
    span_s = intake.at_s - last.at_s
    if span_s <= 0 or intake.arrivals < last.arrivals or intake.finished < last.finished:
        return replace(memory, last=intake)
    arrivals, finished = intake.arrivals - last.arrivals, intake.finished - last.finished
    fresh = (arrivals, intake.input_tokens - last.input_tokens, finished, intake.output_tokens - last.output_tokens)
    keep = 0.5 ** (span_s / SUMS_HALF_LIFE_S)
    sums = tuple(keep * old + new for old, new in zip(memory.sums, fresh, strict=True))
    mix = Mix(
        sums[1] / sums[0] if sums[0] > 0 else memory.mix.inputs,
        max(1.0, sums[3] / sums[2]) if sums[2] > 0 else memory.mix.outputs,
    )
    squares = intake.input_squares - last.input_squares
    work = _work(config, mix, fresh[1], squares, arrivals) / span_s
    seconds = min(LEVEL_S, max(1, round(span_s)))
    began = max(0, intake.serving - last.serving)
    starts = tuple(intake.at_s - at_s for at_s in memory.orders[:began])
    return replace(
        memory,
        last=intake,
        sums=(sums[0], sums[1], sums[2], sums[3]),
        mix=mix,
        work=(*memory.work, *(work,) * seconds)[-HISTORY_S:],
        orders=_under_way(memory.orders[began:], intake),
        starts=(*memory.starts, *starts)[-20:],
    )


def _under_way(orders: tuple[float, ...], intake: Intake) -> tuple[float, ...]:
    """The newest orders, as many as are not serving yet: a start beside a removal is not seen as a start."""
    count = max(0, intake.desired - intake.serving)
    return orders[len(orders) - count :] if count < len(orders) else orders


def _work(config: CoordinatorConfig, mix: Mix, tokens: int, squares: int, arrivals: int) -> float:
    """Engine seconds of requests: their prefill, and their decoding at the batch that an engine sustains."""
    model = config.model
    held = sustained(model, mix, config.baseline, config.itl_target_ms)
    token_ms = model.decode_ms(round(held.batch), held.batch * (mix.inputs + mix.outputs / 2)) / held.batch
    prefill_ms = model.prefill_factor * (model.b2_ms * tokens + model.att_pf_ms * squares)
    return (prefill_ms + arrivals * mix.outputs * token_ms) / 1000


def _pressure(intake: Intake, config: CoordinatorConfig) -> float:
    """Predicted wait for prefill on a mean replica, as a share of the TTFT target."""
    each = intake.queued_tokens / max(1, intake.serving)
    return config.model.prefill_factor * config.model.b2_ms * each / config.ttft_target_ms


def _plan(intake: Intake, config: CoordinatorConfig, memory: Memory) -> tuple[int, str, Memory]:
    now_s, desired = intake.at_s, intake.desired
    recent = memory.work[-REACT_S:]
    rate = sum(recent) / len(recent) if recent else 0.0
    backlog_s = _work(config, memory.mix, intake.queued_tokens, 0, intake.waiting)
    reactive = math.ceil((rate + backlog_s / DRAIN_S) / UTILIZATION)
    lead_s = start_s(memory) + SETTLE_S
    up, level = _forecast(config, memory, lead_s, config.up_quantile)
    down, _ = _forecast(config, memory, 2 * lead_s, config.down_quantile)
    keep = _bounded(max(reactive, up, down), config)
    answers = (*((at_s, count) for at_s, count in memory.answers if at_s > now_s - HOLD_S), (now_s, keep))
    memory = replace(memory, answers=answers)
    wanted = _bounded(max(reactive, up), config)
    reason = f"demand {rate:.1f} engines, backlog {backlog_s:.1f} s: {reactive} now, {up} at level {level:.1f} in {lead_s:.0f} s"
    if wanted >= desired:
        return wanted, reason, memory
    held = now_s - answers[0][0] >= HOLD_S - PLAN_EVERY_S and len(memory.work) >= max(LEARN_S, 2 * lead_s)
    floor = max(count for _, count in answers)
    if held and floor < desired:
        return floor, f"{floor} suffice for {2 * lead_s:.0f} s; {reason}", memory
    return _bounded(desired, config), reason, memory


def _forecast(config: CoordinatorConfig, memory: Memory, horizon_s: float, share: float) -> tuple[int, float]:
    """Replicas for the demand that may come within the horizon, and its level."""
    work = memory.work
    if not work:
        return config.min_replicas, 0.0
    levels = rolling_mean(work, LEVEL_S)
    factor = growth(levels, round(horizon_s), share, LEVEL_FLOOR)
    if len(work) < 3 * horizon_s:
        factor = max(factor, GROWTH_PRIOR)
    now = levels[-1]
    level = (now + LEVEL_FLOOR) * factor - LEVEL_FLOOR
    level = max(now, min(level, PEAK_MARGIN * max(levels)))
    around = centred_mean(work[-REPLAY_S:], LEVEL_S)
    pairs = zip(work[-REPLAY_S:], around, strict=True)
    # A larger demand is more users, whose bursts add as independent ones do: with the square root.
    shape = [max(0.0, level + (one - mean) * math.sqrt(level / max(mean, LEVEL_FLOOR))) for one, mean in pairs]
    return needed(shape, SLACK * config.ttft_target_ms / 1000, config.late_allowed, config.max_replicas), level


def _bounded(count: int, config: CoordinatorConfig) -> int:
    return min(max(count, config.min_replicas), config.max_replicas)
