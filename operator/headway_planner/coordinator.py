"""What the demand asks for: a step model, work at ingress, and replicas every 5 s from replayed demand.

Demand is counted where requests come in, never where they end, and in engine seconds, never in requests (`Intake`): one
engine works off one a second at the rate that it sustains with the user's baseline limits (`capacity.py`). The step model
behind that is given, or learnt from what the engines did (`identify.py`); before it is known nothing is guessed (`Needs` is
None). Every 5 s it is answered how many replicas are needed:

- `forecast` (`forecast.py`): the bursts of the last minutes, at the level that the demand may reach until an ordered replica
  serves;
- `reactive`: the demand of the last seconds, as far as it cannot wait (`recent.py`), plus the backlog, worked off in `DRAIN_S`.
  Whatever the forecast says, the fleet is not smaller.

`up` is the larger one. `keep` is the answer over the longer horizon of a removal and a new start, for `KEEP_ROOM` times that
level; `keep_long` the largest of these in the whole window of a removal: the user's, two starts at the least, doubled by each
order that followed a removal in the last half hour. Before it, and two horizons of demand, have been seen nothing is removed.
While more first tokens were late by the queue than may be (`budget.py`), older answers count too, without what a backlog asked
for, once the past is believed.

Requests with a deadline (`Intake.deferred`, told apart by the caller) are none of that demand. They are worked off in what it
leaves free; `up` and `keep` are raised only as far as their deadlines need it (`deferred.py`).
"""

import math
from dataclasses import dataclass, field, replace

from headway_planner.budget import Answer, FirstTokens, caution, spent, told
from headway_planner.capacity import Capacity, Mix, Sums, held_tokens, mean_mix, renewed, sustained, token_ms
from headway_planner.deferred import AIM_KEEP, AIM_UP, Asked, Backlog, Deferred, engines_for, noted
from headway_planner.forecast import LEAST_LEVEL_S, MOST_LEVEL_S, Ask, Past, believed_s, forecast
from headway_planner.identify import Fit, LearntSteps, StepsDone, learn, learnt
from headway_planner.model import BatchLimits, Needs
from headway_planner.recent import DRAIN_S, recent_demand
from headway_planner.staffing import UTILIZATION, mean
from headway_planner.steps import StepCost

HISTORY_S = 3600
PLAN_EVERY_S, SETTLE_S = 5.0, 15.0
START_PRIOR_S, START_MARGIN = 90.0, 1.3
ENDING = 0.5  # share of the level: where the last seconds brought less, a load has just ended, or pauses
KEEP_STARTS = 2.0  # a removal waits for so many starts at the least
CAREFUL_HOLDS = 8.0  # so many times as long it waits at full caution
KEEP_S, KEEP_HOLDS = 300.0, 5.0  # a removal looks so far ahead, at most so many of its windows
KEEP_ROOM = 1.15  # and must leave room for so many times that level: a count near its border would come and go
TURNS_S, MOST_TURNS = 1800.0, 3  # how long an order after a removal is remembered, and how many count


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """What the user asks for, and the engine.

    Attributes:
        model: of the engine's steps; None: learnt from its counters.
        late_allowed: share of the requests that may miss the TTFT target.
        up_quantile, down_quantile: of the growth that is prepared for, before ordering and before removing.
        hold_s: window of a removal.
        deadline_s: in which the requests of `Intake.deferred` must be finished.
    """

    min_replicas: int
    max_replicas: int
    ttft_target_ms: float
    itl_target_ms: float
    baseline: BatchLimits
    model: StepCost | None = None
    late_allowed: float = 0.002
    up_quantile: float = 0.98
    down_quantile: float = 0.8
    hold_s: float = 60.0
    deadline_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of the fleet since any start; they never fall.

    Attributes:
        refused: arrivals that a full queue turned away; their tokens are not in `input_tokens`.
        input_tokens, input_squares: prompt tokens of the arrivals, and the sum of their squares (0: not known).
        first: first tokens, in time and not.
    """

    arrivals: float = 0.0
    refused: float = 0.0
    input_tokens: float = 0.0
    input_squares: float = 0.0
    finished: float = 0.0
    output_tokens: float = 0.0
    first: FirstTokens = field(default_factory=FirstTokens)


@dataclass(frozen=True, slots=True)
class Intake:
    """The fleet now.

    Attributes:
        at_s: when the counters were read.
        queued_tokens: prompt tokens still to be computed.
        stale: too few replicas answer to decide on.
        kv_tokens: tokens that one engine's KV cache holds; 0: not known.
        kv_used: tokens that the caches of all engines hold for running sequences; 0: not known.
        done: what engines did since the intake before, for the step model.
        starts: seconds from order to service of the replicas that serve; (): measured from the counts.
        deferred: requests with a deadline, which are in none of the above but `done`; None: there are none.
    """

    at_s: float
    desired: int
    serving: int
    totals: Totals
    running: float = 0.0
    waiting: float = 0.0
    queued_tokens: float = 0.0
    stale: bool = False
    kv_tokens: int = 0
    kv_used: float = 0.0
    done: tuple[StepsDone, ...] = ()
    starts: tuple[float, ...] = ()
    deferred: Deferred | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the coordinator remembers.

    Attributes:
        prior: a step model from before, used until `fit` knows one.
        work, prompts: engines of demand, one value a second, oldest first; the share of it that is prefill.
        seen_s: seconds of it that were seen in full; the rest is what a predecessor wrote down of each minute.
    """

    last: Intake | None = None
    fit: Fit = field(default_factory=Fit)
    prior: LearntSteps | None = None
    seen_s: float = 0.0
    work: tuple[float, ...] = ()
    prompts: tuple[float, ...] = ()
    mix: Mix | None = None
    sums: Sums = (0.0, 0.0, 0.0, 0.0)  # of minutes
    newest: Sums = (0.0, 0.0, 0.0, 0.0)  # of the newest requests
    planned_s: float = -math.inf
    needs: Needs | None = None  # of the last plan
    turns: tuple[float, ...] = ()  # times of orders that followed a removal
    falling: bool = False  # the last change was a removal
    answers: tuple[Answer, ...] = ()  # of the longest window of a removal, oldest first
    orders: tuple[float, ...] = ()  # times of replicas ordered and not serving yet
    starts: tuple[float, ...] = ()  # seconds from order to service, newest last
    backlog: Backlog = field(default_factory=Backlog)
    first: FirstTokens = field(default_factory=FirstTokens)  # of the last hour, older ones fading


def assess(intake: Intake, config: CoordinatorConfig, memory: Memory) -> tuple[Needs | None, Memory]:
    """The replicas that the demand asks for, and what to remember. None: not known."""
    if intake.stale:
        return None, memory
    memory, known = _observed(intake, config, memory)
    if not known:
        return None, replace(memory, needs=None)
    if intake.at_s - memory.planned_s < PLAN_EVERY_S and memory.needs is not None:
        return memory.needs, memory
    if intake.deferred is not None:
        backlog = noted(memory.backlog, intake.deferred, intake.at_s, config.deadline_s)
        memory = replace(memory, backlog=backlog)
    needs, memory = _plan(intake, config, memory)
    return needs, replace(memory, planned_s=intake.at_s, needs=needs)


def ordered(memory: Memory, desired: int, wanted: int) -> Memory:
    """The memory after the count was changed: what is ordered now will show how long a start takes."""
    if memory.last is None:
        return memory
    if wanted > desired:
        turns = (*memory.turns, memory.last.at_s) if memory.falling else memory.turns
        orders = (*memory.orders, *(memory.last.at_s,) * (wanted - desired))
        return replace(memory, orders=orders, turns=turns, falling=False)
    orders = memory.orders[: max(0, len(memory.orders) - (desired - wanted))]
    return replace(memory, orders=orders, falling=memory.falling or wanted < desired)


def model_of(config: CoordinatorConfig, memory: Memory) -> StepCost | None:
    """The step model to decide with; None while it is not known."""
    kv_tokens = memory.last.kv_tokens if memory.last is not None else 0
    return config.model or learnt(memory.fit, kv_tokens) or memory.prior


def asked(config: CoordinatorConfig, memory: Memory) -> Asked | None:
    """What the deadlines ask for; None: there never were any, or what their requests cost is not known."""
    left_ms = _left_ms(config, memory)
    if left_ms is None or memory.last is None:
        return None
    count, _, _ = _due(config, memory, memory.last.at_s, start_s(memory) + SETTLE_S)
    return Asked(left_ms / 1000, count)


def pressure(intake: Intake, config: CoordinatorConfig, model: StepCost) -> float:
    """Predicted wait for prefill on a mean replica, as a share of the TTFT target."""
    each = intake.queued_tokens / max(1, intake.serving)
    return model.prefill_token_ms * each / config.ttft_target_ms


def start_s(memory: Memory) -> float:
    """The time from order to service that most starts keep; the median, because many orders at once delay each other.

    Until two were seen a start is taken to last as long as the oldest order has waited, if that is more than the prior.
    """
    measured = memory.last.starts if memory.last is not None else ()
    waited = max((memory.last.at_s - at_s for at_s in memory.orders), default=0.0) if memory.last is not None else 0.0
    prior = max(START_PRIOR_S, waited)
    seen = sorted(measured or (*memory.starts, prior, prior))
    return START_MARGIN * seen[(len(seen) - 1) // 2]


def _observed(intake: Intake, config: CoordinatorConfig, memory: Memory) -> tuple[Memory, bool]:
    """The memory with one more interval, and whether its demand is known."""
    fit, last = learn(memory.fit, intake.done), memory.last
    if last is None:
        return replace(memory, fit=fit, last=intake), False
    span_s, now, then = intake.at_s - last.at_s, intake.totals, last.totals
    if span_s <= 0 or now.arrivals < then.arrivals or now.finished < then.finished:
        return replace(memory, fit=fit, last=intake), memory.needs is not None
    refused = now.refused - then.refused
    arrivals = now.arrivals - then.arrivals
    # A request that runs has made half of its answer on average.
    finished = max(0.0, now.finished - then.finished + (intake.running - last.running) / 2)
    fresh = (
        arrivals - refused,
        now.input_tokens - then.input_tokens,
        finished,
        now.output_tokens - then.output_tokens,
    )
    sums, newest = renewed((memory.sums, memory.newest), fresh, intake.running, span_s)
    began = max(0, intake.serving - last.serving)
    starts = tuple(intake.at_s - at_s for at_s in memory.orders[:began])
    memory = replace(
        memory,
        fit=fit,
        last=intake,
        sums=sums,
        newest=newest,
        first=spent(memory.first, then.first, now.first, span_s),
        mix=mean_mix(sums, memory.mix, held_tokens(memory.mix, intake.kv_used, intake.running, span_s)),
        orders=_under_way(memory.orders[began:], intake),
        starts=(*memory.starts, *starts)[-20:],
    )
    squares = now.input_squares - then.input_squares
    work = _work(config, memory, (arrivals, fresh[1], squares, refused))
    if work is None:
        return memory, False
    seconds = min(LEAST_LEVEL_S, max(1, round(span_s)))
    prompt = _prompt_ms(model_of(config, memory), fresh[1], squares) / 1000
    series = (memory.work + (work / span_s,) * seconds)[-HISTORY_S:]
    prompts = (memory.prompts + (min(work, prompt) / span_s,) * seconds)[-HISTORY_S:]
    return replace(memory, work=series, prompts=prompts, seen_s=memory.seen_s + seconds), True


def _under_way(orders: tuple[float, ...], intake: Intake) -> tuple[float, ...]:
    """The newest orders, as many as are not serving yet: a start beside a removal is not seen as a start."""
    count = max(0, intake.desired - intake.serving)
    return orders[len(orders) - count :] if count < len(orders) else orders


def _work(config: CoordinatorConfig, memory: Memory, came: tuple[float, float, float, float]) -> float | None:
    """Engine seconds of requests: their prefill, and their decoding at the batch that an engine sustains.

    `came`: requests, prompt tokens and squared prompt tokens of those that were taken, requests that were refused. Nothing
    came: 0, whatever an engine sustains. None: something did, and what it costs is not known.
    """
    requests, tokens, squares, refused = came
    if requests <= 0 and tokens <= 0:
        return 0.0
    model, mix = model_of(config, memory), memory.mix
    if model is None or mix is None:
        return None
    prefill_ms = _prompt_ms(model, tokens + refused * mix.inputs, squares)
    return max(0.0, prefill_ms + requests * mix.outputs * _token_ms(config, model, mix)) / 1000


def _token_ms(config: CoordinatorConfig, model: StepCost, mix: Mix) -> float:
    return token_ms(model, mix, config.baseline, config.itl_target_ms)


def _prompt_ms(model: StepCost | None, tokens: float, squares: float) -> float:
    return 0.0 if model is None else model.prefill_token_ms * tokens + model.prefill_square_ms * squares


def _plan(intake: Intake, config: CoordinatorConfig, memory: Memory) -> tuple[Needs | None, Memory]:
    now_s, engine = intake.at_s, _engine(config, memory)
    rate = 0.0 if engine is None else recent_demand(engine, memory.work, memory.prompts, config.ttft_target_ms)
    backlog_s = _work(config, memory, (intake.waiting, intake.queued_tokens, 0.0, 0.0))
    if backlog_s is None:
        return None, memory
    now, reactive = (math.ceil(one / UTILIZATION - 1e-9) for one in (rate, rate + backlog_s / DRAIN_S))
    lead_s = start_s(memory) + SETTLE_S
    due, due_longer, batch = _due(config, memory, now_s, lead_s)
    keep_s = max(2 * lead_s, min(KEEP_S, KEEP_HOLDS * config.hold_s))
    up, down, level = _forecasts(config, memory, engine, (lead_s, keep_s))
    # Its level is still high, and a rise from there would need more: that is ordered when the demand is back.
    ends = rate < ENDING * mean(memory.work[-_level_s(memory) :]) and up > intake.serving
    up = max(max(1, intake.serving) if ends else up, due)
    demand, keep = (_bounded(max(one, up, down, due_longer), config) for one in (now, reactive))
    turns = tuple(at_s for at_s in memory.turns if at_s > now_s - TURNS_S)
    # A replica that waits in vain for as long as a start takes costs as much as one that is missed.
    care = caution(memory.first, config.late_allowed)
    turned = 2 ** min(MOST_TURNS, len(turns))
    hold_s = max(config.hold_s, KEEP_STARTS * start_s(memory)) * turned
    long_s = hold_s * CAREFUL_HOLDS**care
    since_s, longest_s = (now_s - PLAN_EVERY_S - one for one in (hold_s, long_s))
    answers = (*(one for one in memory.answers if one.at_s > longest_s), Answer(now_s, keep, demand))
    held = now_s - answers[0].at_s >= min(long_s, max(hold_s, believed_s(lead_s))) - PLAN_EVERY_S
    enough = held and memory.seen_s >= max(config.hold_s, 2 * lead_s)
    needs = Needs(
        up=max(reactive, up),
        keep=keep,
        keep_long=max(one.keep if one.at_s > since_s else one.demand for one in answers) if enough else None,
        reason=f"demand {rate:.1f} engines, backlog {backlog_s:.1f} s: {reactive} now, {up} at level {level:.1f} in "
        f"{lead_s:.0f} s{' (it falls: no order)' if ends else ''}, {keep} for {keep_s:.0f} s{batch}{told(care)}",
    )
    return needs, replace(memory, answers=answers, turns=turns)


def _engine(config: CoordinatorConfig, memory: Memory) -> Capacity | None:
    """What an engine sustains of the requests of late; None while it is not known."""
    model, mix = model_of(config, memory), memory.mix
    return None if model is None or mix is None else sustained(model, mix, config.baseline, config.itl_target_ms)


def _left_ms(config: CoordinatorConfig, memory: Memory) -> float | None:
    """Engine time of the requests with a deadline that are here; None: there never were any, or it is not known."""
    now, model, mix = memory.backlog.now, model_of(config, memory), memory.backlog.mix
    if now is None or model is None or mix is None:
        return None
    answers = now.waiting + now.running / 2
    return _prompt_ms(model, now.queued_tokens, 0.0) + answers * mix.outputs * _token_ms(config, model, mix)


def _due(config: CoordinatorConfig, memory: Memory, now_s: float, lead_s: float) -> tuple[int, int, str]:
    """Replicas that the deadlines need with the online demand: before an order, before a removal; and a word on it."""
    backlog, model, mix = memory.backlog, model_of(config, memory), memory.backlog.mix
    left_ms = _left_ms(config, memory)
    if left_ms is None or model is None or mix is None:
        return 0, 0, ""
    each_ms = _prompt_ms(model, mix.inputs, 0.0) + mix.outputs * _token_ms(config, model, mix)

    def due(aim: float) -> float:
        until_s = [at_s + aim * config.deadline_s - lead_s - now_s for at_s, _ in backlog.marks]
        return engines_for(backlog, left_ms / 1000, memory.work, until_s)

    span_s = round(min(config.deadline_s, len(memory.work)))
    steady = backlog.rate(now_s) * each_ms / 1000 + mean(memory.work[-span_s:])
    up, keep = (math.ceil(one / UTILIZATION - 1e-9) for one in (due(AIM_UP), max(due(AIM_KEEP), steady)))
    return up, keep, f", {up} for {left_ms / 1000:.0f} s of work with deadlines"


def _forecasts(
    config: CoordinatorConfig, memory: Memory, engine: Capacity | None, horizons_s: tuple[float, float]
) -> tuple[int, int, float]:
    """Replicas for what may come before an order serves, and, no fewer, before a removal is undone; level of the first."""
    # An hour without any demand needs no replay: a thousand idle fleets should cost nothing.
    if engine is None or not any(memory.work):
        return config.min_replicas, config.min_replicas, 0.0
    level_s = _level_s(memory)
    care = caution(memory.first, config.late_allowed)
    ask = Ask(config.ttft_target_ms, config.late_allowed, config.max_replicas + 1, config.hold_s, care)
    past = Past.of(memory.work, memory.prompts, level_s)
    up, level = forecast(past, engine, ask, horizons_s[0], config.up_quantile)
    down, _ = forecast(past, engine, replace(ask, room=KEEP_ROOM), horizons_s[1], config.down_quantile, least=up)
    return up, down, level


def _level_s(memory: Memory) -> int:
    return round(min(MOST_LEVEL_S, max(LEAST_LEVEL_S, start_s(memory))))


def _bounded(count: int, config: CoordinatorConfig) -> int:
    return min(max(count, config.min_replicas), config.max_replicas)
