"""The slow actuator: how many replicas the fleet should have.

A short queue with slow compute is the tuner's business; a long queue is this one's.

Up, when more requests wait per replica than `queue_per_replica`, or first tokens are late because of the queue. The size
is proportional: replicas that serve the arrivals of the window and work the backlog off in a minute, at the rate that the
serving replicas finish requests; at most twice the supply at once. Starting replicas are credited as supply, replicas
that cannot be placed are not.

Down, to the fewest replicas that still fit: with n of s replicas each runs (s/n)^2 times the sequences (more requests,
each of them slower) and takes s/n times as long; both must leave slack. Limits that were tuned above the baseline are no
capacity, and a silent engine counts as the busiest one.

Then the window (a recommendation must hold this long), the step limit per period and the bounds. Nothing shrinks on
missing data, and nothing shrinks sooner after a growth than the down window.
"""

import math
from dataclasses import replace

from headway_planner.model import LoadView, ScaleConfig, ScaleDecision, ScaleState

BACKLOG_DRAIN_S = 60.0  # time in which the waiting requests should be worked off
UTILIZATION = 0.9  # share of the measured service rate that is planned with
MAX_GROWTH = 2  # most growth of one recommendation, as a multiple of the supply
SETTLE_S = 10.0  # a raise of the limits gets this long to empty a queue that fits into it
JOIN_S = 20.0  # a new replica gets this long before late first tokens count: until then they show the time without it
MIN_SPAN_S = 8.0  # shorter windows say too little to shrink on
MIN_REQUEST_SAMPLES = 8
MIN_TOKEN_SAMPLES = 20
RUNNING_SLACK = 0.7  # share of maxNumSeqs that may be in use after a removal
LATENCY_SLACK = 0.8  # share of a latency target that may be in use after a removal


def decide_scale(view: LoadView, config: ScaleConfig, state: ScaleState, now_s: float) -> ScaleDecision:
    """How many replicas to work towards now."""
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
    wanted, reason = _wanted_up(view, config, state, now_s)
    if wanted <= desired:
        wanted, reason = _wanted_down(view, config, state, reason)
    recommended = min(max(wanted, config.min_replicas), config.max_replicas)
    limited = wanted > config.max_replicas
    if limited:
        reason = f"{reason}; {wanted} replicas wanted, maxReplicas is {config.max_replicas}"
    if recommended == desired:
        return ScaleDecision(desired, desired, None, reason, limited=limited)
    return replace(_stabilized(recommended, reason, config, state, now_s), limited=limited)


def _wanted_up(view: LoadView, config: ScaleConfig, state: ScaleState, now_s: float) -> tuple[int, str]:
    desired = state.desired
    supply = max(1, min(desired, view.serving + state.warming))
    waiting = view.waiting * view.serving / view.reporting
    queue = waiting / supply
    ttft = view.ttft.high_ms if view.ttft.count >= MIN_REQUEST_SAMPLES else None
    queue_wait = view.queue_wait.high_ms or 0.0
    calm = f"queue {queue:.1f} per replica, p95 TTFT {_ms(ttft)}"
    long_queue = queue > config.queue_per_replica
    # Latency looks back: while replicas warm up, and some time after, it shows the state that they were ordered for.
    joined = state.joined_at_s
    late = (
        ttft is not None
        and ttft > config.ttft_target_ms
        and queue_wait > 0.5 * config.ttft_target_ms
        and queue >= 1
        and state.warming == 0
        and (joined is None or now_s - joined >= JOIN_S)
    )
    if not (long_queue or late):
        return desired, calm
    why = []
    if long_queue:
        why.append(f"queue {queue:.1f} per replica > {config.queue_per_replica:g}")
    if ttft is not None and ttft > config.ttft_target_ms:
        why.append(f"p95 TTFT {_ms(ttft)} > {_ms(config.ttft_target_ms)} (queue wait {_ms(queue_wait)})")
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
    return min(ceiling, math.ceil(demand / (UTILIZATION * rate_each)))


def _wanted_down(view: LoadView, config: ScaleConfig, state: ScaleState, calm: str) -> tuple[int, str]:
    desired = state.desired
    if desired <= config.min_replicas or view.span_s < MIN_SPAN_S:
        return desired, calm
    if not view.active and view.reporting == view.serving:
        return config.min_replicas, f"idle for {view.span_s:.0f} s: no request runs, waits or arrives"
    for count in range(config.min_replicas, desired):
        if _fits(view, config, state, count):
            each = _running_each(view, count)
            return count, f"{count} replicas suffice: {each:.1f} of {_room(state)} sequences each, {calm}"
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


def _stabilized(recommended: int, reason: str, config: ScaleConfig, state: ScaleState, now_s: float) -> ScaleDecision:
    desired = state.desired
    up = recommended > desired
    window_s = config.up_window_s if up else config.down_window_s
    before = state.recommended
    kept = before is not None and before != desired and (before > desired) == up
    since = state.recommended_since_s if kept and state.recommended_since_s is not None else now_s
    start = since
    if not up:
        grown = [event.at_s for event in state.history if event.after > event.before]
        start = max([since, *grown])
    if now_s - start < window_s:
        text = f"{recommended} replicas recommended for {now_s - start:.0f} s of {window_s:.0f} s: {reason}"
        return ScaleDecision(desired, recommended, since, text)
    step, period_s = (config.up_step, config.up_period_s) if up else (config.down_step, config.down_period_s)
    moved = sum(
        abs(event.after - event.before)
        for event in state.history
        if (event.after > event.before) == up and now_s - event.at_s < period_s
    )
    allowed = max(0, step - moved)
    target = min(recommended, desired + allowed) if up else max(recommended, desired - allowed)
    if target != recommended:
        name = "scaleUp" if up else "scaleDown"
        reason = f"{reason}; {recommended} recommended, {name} allows {step} in {period_s:.0f} s"
    return ScaleDecision(target, recommended, since if target != recommended else None, reason)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"
