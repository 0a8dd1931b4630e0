"""The fast actuator: which batch limits the engines should run with.

Latency has two parts. Compute (the step, seen as inter-token latency and as prefill time) follows the limits; the queue
follows the capacity. So the rules, first match wins:

1. no engine answers: hold; no traffic in the whole window: back to the baseline;
2. inter-token latency over target: when the queue is long as well, the fleet is too small, and lower limits would only
   lengthen the queue: not below the baseline; else fewer tokens a step when only its tail is
   over (prefills interfere), else fewer sequences;
3. requests wait, the sequence cap binds, KV cache and inter-token latency leave room: more sequences;
4. first token late although the queue is short: more tokens a step while latency allows, else fewer sequences;
5. the token budget was lowered and there is room again: back towards the baseline.

A raise must pass a prediction first: inter-token latency is taken to grow in proportion to the limit, which is an upper
bound. A lowering is the inverse of a raise, so a value between the two is left alone and the rules do not oscillate.
"""

import math

from headway_planner.model import BatchLimits, Direction, LoadView, TuneConfig, TuneDecision, TuneState

MIN_TOKEN_SAMPLES = 20  # inter-token gaps that a percentile needs
MIN_REQUEST_SAMPLES = 8  # first tokens that a percentile needs
KV_CEILING = 0.9  # above it, more sequences only mean preemption
CAP_BINDS = 0.9  # running over the cap at which the cap is what holds requests back


def decide_tune(view: LoadView, config: TuneConfig, state: TuneState, now_s: float) -> TuneDecision:
    """The limits for every engine of the fleet now."""
    current = clamp(state.limits, config)
    if current != state.limits:
        return TuneDecision(current, f"limits moved inside tuning.bounds: {_change(state.limits, current)}")
    if not view.fresh:
        return TuneDecision(current, f"hold: {view.reporting} of {view.serving} replicas report", hold=True)
    since = math.inf if state.last_change_s is None else now_s - state.last_change_s
    if since < config.cooldown_s:
        text = f"cooling down: last change {since:.0f} s ago, cooldown {config.cooldown_s:.0f} s"
        return TuneDecision(current, text, hold=True)
    wanted, reason = _wanted(view, config, state)
    wanted = clamp(wanted, config)
    if wanted == current:
        return TuneDecision(current, reason)
    direction = direction_of(current, wanted)
    reverses = state.last_direction not in (Direction.NONE, direction)
    if reverses and not view.quiet and since < 2 * config.cooldown_s:
        return TuneDecision(current, f"{reason}; a change of direction waits for 2 cooldowns")
    return TuneDecision(wanted, f"{reason}: {_change(current, wanted)}")


def clamp(limits: BatchLimits, config: TuneConfig) -> BatchLimits:
    """Limits inside the bounds, with a step that has room for one token of every sequence."""
    seqs = min(max(limits.seqs, config.seqs_min), config.seqs_max, config.tokens_max)
    tokens = min(max(limits.tokens, config.tokens_min, seqs), config.tokens_max)
    return BatchLimits(seqs, tokens)


def direction_of(before: BatchLimits, after: BatchLimits) -> Direction:
    """Which way a change goes; the sequence cap speaks for both when they differ."""
    for old, new in ((before.seqs, after.seqs), (before.tokens, after.tokens)):
        if new != old:
            return Direction.UP if new > old else Direction.DOWN
    return Direction.NONE


def _wanted(view: LoadView, config: TuneConfig, state: TuneState) -> tuple[BatchLimits, str]:
    limits = state.limits
    if view.quiet:
        return state.baseline, "no traffic, back to the baseline"
    itl = view.itl.high_ms if view.itl.count >= MIN_TOKEN_SAMPLES else None
    if itl is not None and itl > config.itl_target_ms:
        return _relieve_step(view, config, state, itl)
    waiting = view.waiting / view.reporting
    if waiting >= 1 and view.busiest_running >= CAP_BINDS * limits.seqs:
        return _admit_more(view, config, limits, itl)
    if view.ttft.count >= MIN_REQUEST_SAMPLES and (view.ttft.high_ms or 0) > config.ttft_target_ms:
        return _speed_up_prefill(view, config, limits, itl)
    if limits.tokens < state.baseline.tokens and _fits(itl, config, limits.tokens, _raised(limits.tokens, config)):
        tokens = min(_raised(limits.tokens, config), state.baseline.tokens)
        return BatchLimits(limits.seqs, tokens), f"ITL {_ms(itl)} leaves room, token budget back towards the baseline"
    return (
        limits,
        f"p95 TTFT {_ms(view.ttft.high_ms)}, ITL {_ms(itl)}, queue {waiting:.1f} per replica: nothing to change",
    )


def _late_by_queue(view: LoadView, config: TuneConfig) -> bool:
    late = view.ttft.count >= MIN_REQUEST_SAMPLES and (view.ttft.high_ms or 0.0) > config.ttft_target_ms
    return late and (view.queue_wait.high_ms or 0.0) > (view.prefill.high_ms or 0.0)


def _keep_throughput(view: LoadView, config: TuneConfig, state: TuneState, itl: float) -> tuple[BatchLimits, str]:
    reason = (
        f"ITL {_ms(itl)} > {_ms(config.itl_target_ms)}, but queue {view.waiting / view.reporting:.1f} per replica, "
        f"queue wait {_ms(view.queue_wait.high_ms)}: capacity, not limits"
    )
    limits, baseline = state.limits, state.baseline
    return BatchLimits(max(limits.seqs, baseline.seqs), max(limits.tokens, baseline.tokens)), reason


def _relieve_step(view: LoadView, config: TuneConfig, state: TuneState, itl: float) -> tuple[BatchLimits, str]:
    limits = state.limits
    # A whole batch waiting shows the same as late first tokens do, and sooner.
    if _late_by_queue(view, config) or view.waiting / view.reporting >= limits.seqs:
        return _keep_throughput(view, config, state, itl)
    over = f"ITL {_ms(itl)} > {_ms(config.itl_target_ms)}"
    only_tail = view.itl.median_ms is not None and view.itl.median_ms <= 0.8 * config.itl_target_ms
    if only_tail and view.prompt_share > 0.2 and limits.tokens > max(config.tokens_min, limits.seqs):
        return BatchLimits(limits.seqs, _lowered(limits.tokens, config)), f"{over} while prefills share the step"
    used = min(limits.seqs, math.ceil(view.busiest_running))
    if used > config.seqs_min:
        return BatchLimits(_lowered(used, config), limits.tokens), f"{over} with {used} sequences running"
    return limits, f"{over}, limits already at their lower bound"


def _admit_more(view: LoadView, config: TuneConfig, limits: BatchLimits, itl: float | None) -> tuple[BatchLimits, str]:
    queue = f"queue {view.waiting / view.reporting:.1f} per replica with all {limits.seqs} sequences running"
    if view.kv_usage >= KV_CEILING:
        return limits, f"{queue}, but KV cache {view.kv_usage:.0%} full"
    if limits.seqs >= config.seqs_max:
        return limits, f"{queue}, maxNumSeqs at its upper bound"
    # Far below the target the steps may be larger; each candidate has to pass the prediction.
    for factor in (2 * config.step, config.step, 0.0):
        seqs = min(limits.seqs + max(1, math.floor(limits.seqs * factor)), config.seqs_max)
        if _fits(itl, config, limits.seqs, seqs):
            return BatchLimits(seqs, limits.tokens), f"{queue}, ITL {_ms(itl)} <= {_ms(config.itl_target_ms)}"
    return limits, f"{queue}, ITL {_ms(itl)} leaves no room below {_ms(config.itl_target_ms)}"


def _speed_up_prefill(
    view: LoadView, config: TuneConfig, limits: BatchLimits, itl: float | None
) -> tuple[BatchLimits, str]:
    late = f"p95 TTFT {_ms(view.ttft.high_ms)} > {_ms(config.ttft_target_ms)}"
    if _late_by_queue(view, config):
        return limits, f"{late}, queue wait {_ms(view.queue_wait.high_ms)} is most of it: capacity, not limits"
    prefill = view.prefill.high_ms or 0.0
    tokens = _raised(limits.tokens, config)
    if limits.tokens < config.tokens_max and _fits(itl, config, limits.tokens, tokens):
        return BatchLimits(limits.seqs, tokens), f"{late}, of which prefill {_ms(prefill)}"
    used = min(limits.seqs, math.ceil(view.busiest_running))
    if used > config.seqs_min and used > 1:
        seqs = _lowered(used, config)
        return BatchLimits(seqs, limits.tokens), f"{late}, of which prefill {_ms(prefill)} beside {used} sequences"
    return limits, f"{late}: prefill alone takes {_ms(prefill)}, the objective is not feasible on this engine"


def _fits(itl: float | None, config: TuneConfig, before: int, after: int) -> bool:
    return itl is None or itl * after / before <= config.itl_target_ms


def _raised(value: int, config: TuneConfig) -> int:
    return value + max(1, math.ceil(value * config.step))


def _lowered(value: int, config: TuneConfig) -> int:
    return max(1, min(value - 1, round(value / (1 + config.step))))


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"


def _change(before: BatchLimits, after: BatchLimits) -> str:
    parts = []
    if before.seqs != after.seqs:
        parts.append(f"maxNumSeqs {before.seqs} -> {after.seqs}")
    if before.tokens != after.tokens:
        parts.append(f"maxNumBatchedTokens {before.tokens} -> {after.tokens}")
    return ", ".join(parts)
