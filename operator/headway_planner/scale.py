"""The slow actuator: how many replicas the fleet should have.

A short queue with slow compute is the tuner's business; a long queue is this one's.

When the demand is known (`Needs`), it says how many: `up` at once, starting replicas included in the count; `keep` once it
has sufficed for the whole down window. Two measurements may overrule it, so that a wrong model does no harm: first tokens
late because of the queue, with nothing starting, order replicas by the measured rates, unless nothing waits any more; and none is
removed while requests wait, first tokens are late, or the KV cache of the rest would be full.

When the demand is not known, the measured queue and latencies decide. Up, when more requests wait per replica than
`queue_per_replica`, in the mean of some seconds at the least, or first tokens are late because of the queue; never for a
queue that is gone, whether the limits were raised for it or the burst was over. The size is proportional: replicas that serve the
arrivals of the window and work the backlog off in a minute, at the rate that the serving replicas finish requests; at most
twice the supply at once. Down, to the fewest replicas that still fit: with n of s replicas each runs (s/n)^2 times the
sequences (more requests, each of them slower) and takes s/n times as long; both must leave slack. Limits that were tuned
above the baseline are no capacity, and a silent engine counts as the busiest one.

Then the window (a recommendation must hold this long), the step limit per period and the bounds. Replicas that cannot be
placed stop growth. Nothing shrinks on missing data, and nothing shrinks sooner after a growth than the down window.
"""

import math
from dataclasses import dataclass, replace

from headway_planner.model import (
    MIN_REQUEST_SAMPLES,
    MIN_TOKEN_SAMPLES,
    LoadView,
    Needs,
    ScaleConfig,
    ScaleDecision,
    ScaleState,
)

BACKLOG_DRAIN_S = 60.0  # time in which the waiting requests should be worked off
# Share of the measured service rate that is planned with; the modelled one is trusted with more.
MEASURED_UTILIZATION = 0.9
MAX_GROWTH = 2  # most growth of one recommendation, as a multiple of the supply
SETTLE_S = 10.0  # a raise of the limits gets this long to empty a queue that fits into it
JOIN_S = 20.0  # a new replica gets this long before late first tokens count: until then they show the time without it
QUEUE_SEEN_S = 4.0  # a queue is no moment: an engine that is seen for the first time may be about to take all of it in
MIN_SPAN_S = 8.0  # shorter windows say too little to shrink on
KV_FULL = 0.9  # share of the KV cache that may be in use after a removal
RUNNING_SLACK = 0.7  # share of maxNumSeqs that may be in use after a removal
LATENCY_SLACK = 0.8  # share of a latency target that may be in use after a removal


def decide_scale(
    view: LoadView, config: ScaleConfig, state: ScaleState, now_s: float, needs: Needs | None = None
) -> ScaleDecision:
    """How many replicas to work towards now. `needs` None: the demand is not known."""
    desired = state.desired
    bounded = min(max(desired, config.min_replicas), config.max_replicas)
    if bounded != desired:
        bound = "minReplicas" if bounded > desired else "maxReplicas"
        return ScaleDecision(bounded, bounded, None, f"{desired} replicas moved to {bound} {bounded}")
    if view.serving == 0:
        return ScaleDecision(desired, desired, None, "no replica serves yet", hold=True)
    if not view.fresh:
        reason = f"hold at {desired}: {view.reporting} of {view.serving} replicas report"
        return ScaleDecision(desired, desired, None, reason, hold=True)
    measured = _Measured(view, config, state, now_s)
    if needs is None:
        wanted, reason = _measured_up(measured)
        if wanted <= desired:
            wanted, reason = _measured_down(view, config, state, reason)
        floor = wanted
    else:
        wanted, reason, floor = _demanded(measured, needs)
    recommended = min(max(wanted, config.min_replicas), config.max_replicas)
    # The demand of the last minute may want more for a while after the load has gone: then nothing is held up.
    limited = wanted > config.max_replicas and view.active
    if limited:
        reason = f"{reason}; {wanted} replicas wanted, maxReplicas is {config.max_replicas}"
    if recommended == desired:
        return ScaleDecision(desired, desired, None, reason, limited=limited)
    return replace(_stabilized(measured, recommended, min(desired, floor), reason), limited=limited)


@dataclass(frozen=True, slots=True)
class _Measured:
    view: LoadView
    config: ScaleConfig
    state: ScaleState
    now_s: float


def _demanded(measured: _Measured, needs: Needs) -> tuple[int, str, int]:
    """The count that the demand asks for, why, and the count that may not be gone below in this pass."""
    view, config, state = measured.view, measured.config, measured.state
    desired, reason = state.desired, needs.reason
    if needs.up > desired and state.blocked:
        return desired, f"{reason}, but {state.blocked} replicas wait for a place on a node", desired
    if needs.up > desired:
        return needs.up, reason, desired
    if state.warming == 0 and _late(measured):
        # The model thinks that the fleet suffices, and it does not.
        wanted, why = _measured_up(measured)
        return wanted, f"{why}; {reason}", desired
    if needs.keep >= desired or view.span_s < MIN_SPAN_S:
        return desired, reason, desired
    # A moment that speaks against a removal puts it off; the window of the recommendation goes on.
    held = _held_by(view, config, max(needs.keep, config.min_replicas))
    floor = desired if held or needs.keep_long is None else needs.keep_long
    return needs.keep, f"{_enough(needs.keep)}: {reason}" + (f", but now {held}" if held else ""), floor


def _held_by(view: LoadView, config: ScaleConfig, count: int) -> str:
    """What speaks against `count` replicas now; "" when nothing does."""
    waiting = view.waiting * view.serving / view.reporting
    if waiting / count > 0.25 * config.queue_per_replica:
        return f"{waiting:.0f} requests wait"
    if view.kv_usage * view.serving / count > KV_FULL:
        return f"the KV cache is {view.kv_usage:.0%} full with {view.serving} replicas"
    ttft = view.ttft.high_ms if view.ttft.count >= MIN_REQUEST_SAMPLES else None
    if ttft is not None and ttft > config.ttft_target_ms and (view.queue_wait.high_ms or 0.0) > 0.5 * ttft:
        return f"{view.ttft.percentile} TTFT {_ms(ttft)} > {_ms(config.ttft_target_ms)} by the queue"
    return ""


def _late(measured: _Measured) -> bool:
    """First tokens are late because of the queue, and nothing that could cure it is on its way."""
    view, config, state = measured.view, measured.config, measured.state
    supply = max(1, min(state.desired, view.serving + state.warming))
    queue = view.waiting * view.serving / view.reporting / supply
    ttft = view.ttft.high_ms if view.ttft.count >= MIN_REQUEST_SAMPLES else None
    # Latency looks back: while replicas warm up, and some time after, it shows the state that they were ordered for.
    return (
        ttft is not None
        and ttft > config.ttft_target_ms
        and (view.queue_wait.high_ms or 0.0) > 0.5 * config.ttft_target_ms
        and queue >= 1
        and not view.emptied
        and state.warming == 0
        and (state.joined_at_s is None or measured.now_s - state.joined_at_s >= JOIN_S)
    )


def _measured_up(measured: _Measured) -> tuple[int, str]:
    view, config, state, now_s = measured.view, measured.config, measured.state, measured.now_s
    desired = state.desired
    supply = max(1, min(desired, view.serving + state.warming))
    waiting = view.waiting * view.serving / view.reporting
    queue = waiting / supply
    ttft = view.ttft.high_ms if view.ttft.count >= MIN_REQUEST_SAMPLES else None
    queue_wait = view.queue_wait.high_ms or 0.0
    calm = f"queue {queue:.1f} per replica, {view.ttft.percentile} TTFT {_ms(ttft)}"
    long_queue = queue > config.queue_per_replica and not view.emptied and view.span_s >= QUEUE_SEEN_S
    late = _late(measured)
    if not (long_queue or late):
        return desired, calm
    why = []
    if long_queue:
        why.append(f"queue {queue:.1f} per replica > {config.queue_per_replica:g}")
    if ttft is not None and ttft > config.ttft_target_ms:
        why.append(
            f"{view.ttft.percentile} TTFT {_ms(ttft)} > {_ms(config.ttft_target_ms)} (queue wait {_ms(queue_wait)})"
        )
    reason = ", ".join(why)
    if state.blocked:
        return desired, f"{reason}, but {state.blocked} replicas wait for a place on a node"
    room = max(0.0, state.limits.seqs - view.busiest_running) * view.serving
    raised = state.raised_limits_at_s
    if raised is not None and now_s - raised < SETTLE_S and waiting <= room:
        return desired, f"{reason}, raised limits take it in"
    needed = max(desired if not late else supply + 1, _needed(view, config, waiting, supply))
    return needed, reason


def _needed(view: LoadView, config: ScaleConfig, waiting: float, supply: int) -> int:
    """Replicas for the arrivals plus the backlog, from the measured rate; the queue's length when nothing finished yet."""
    ceiling = MAX_GROWTH * supply
    if view.finished < MIN_REQUEST_SAMPLES or view.span_s <= 0:
        return min(ceiling, math.ceil(waiting / config.queue_per_replica))
    rate_each = view.finished / view.span_s / view.reporting
    demand = view.arrivals / view.span_s * view.serving / view.reporting + waiting / BACKLOG_DRAIN_S
    return min(ceiling, math.ceil(demand / (MEASURED_UTILIZATION * rate_each)))


def _measured_down(view: LoadView, config: ScaleConfig, state: ScaleState, calm: str) -> tuple[int, str]:
    desired = state.desired
    if desired <= config.min_replicas or view.span_s < MIN_SPAN_S:
        return desired, calm
    if not view.active and view.reporting == view.serving:
        return config.min_replicas, f"idle for {view.span_s:.0f} s: no request runs, waits or arrives"
    for count in range(config.min_replicas, desired):
        if _fits(view, config, state, count):
            each = _running_each(view, count)
            return count, f"{_enough(count)}: {each:.1f} of {_room(state)} sequences each, {calm}"
    return desired, calm


def _fits(view: LoadView, config: ScaleConfig, state: ScaleState, count: int) -> bool:
    ratio = view.serving / count
    waiting = view.waiting * view.serving / view.reporting
    if waiting / count > 0.25 * config.queue_per_replica:
        return False
    if _running_each(view, count) > RUNNING_SLACK * _room(state):
        return False
    itl = view.itl.high_ms if view.itl.count >= MIN_TOKEN_SAMPLES else None
    if itl is not None and itl * ratio > LATENCY_SLACK * config.itl_target_ms:
        return False
    ttft = view.ttft.high_ms if view.ttft.count >= MIN_REQUEST_SAMPLES else None
    return ttft is None or ttft * ratio <= LATENCY_SLACK * config.ttft_target_ms


def _room(state: ScaleState) -> int:
    return min(state.limits.seqs, state.baseline_seqs)


def _running_each(view: LoadView, count: int) -> float:
    """Sequences that each of `count` replicas would run."""
    silent = view.serving - view.reporting
    running = view.running + silent * view.busiest_running
    return running / view.serving * (view.serving / count) ** 2


def _stabilized(measured: _Measured, recommended: int, floor: int, reason: str) -> ScaleDecision:
    """The window, then the steps. `floor`: no removal goes below it in this pass."""
    config, state, now_s = measured.config, measured.state, measured.now_s
    desired = state.desired
    up = recommended > desired
    window_s = config.up_window_s if up else config.down_window_s
    before = state.recommended
    kept = before is not None and before != desired and (before > desired) == up
    continued = kept and state.recommended_since_s is not None
    since = state.recommended_since_s if continued and state.recommended_since_s is not None else now_s
    start = since
    if not up:
        grown = [event.at_s for event in state.history if event.after > event.before]
        start = max([since, *grown])
    if now_s - start < window_s:
        text = f"{replicas(recommended)} recommended for {now_s - start:.0f} s of {window_s:.0f} s: {reason}"
        return ScaleDecision(desired, recommended, since, text, continued=continued)
    step, period_s = (config.up_step, config.up_period_s) if up else (config.down_step, config.down_period_s)
    moved = sum(
        abs(event.after - event.before)
        for event in state.history
        if (event.after > event.before) == up and now_s - event.at_s < period_s
    )
    allowed = max(0, step - moved)
    limit = min(recommended, desired + allowed) if up else max(recommended, desired - allowed)
    target = limit if up else max(limit, floor)
    if limit != recommended:
        name = "scaleUp" if up else "scaleDown"
        reason = f"{reason}; {recommended} recommended, {name} allows {step} in {period_s:.0f} s"
    elif target != recommended:
        reason = f"{reason}; {target} were needed inside of the last {window_s:.0f} s"
    return ScaleDecision(target, recommended, since if target != recommended else None, reason, continued=continued)


def replicas(count: int) -> str:
    """A number of them, for a message."""
    return "1 replica" if count == 1 else f"{count} replicas"


def _enough(count: int) -> str:
    return f"{replicas(count)} {'suffices' if count == 1 else 'suffice'}"


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"
