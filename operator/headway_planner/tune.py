"""The fast actuator: which batch limits the engines should run with.

Latency has two parts. Compute (the step, seen as inter-token latency and as prefill time) follows the limits; the queue
follows the capacity. So the rules, first match wins:

1. no engine answers, or for too short a time: hold; no traffic in the whole window: back to the baseline;
2. the queued prompts take long by the step model and the batch has room (a burst): the token budget goes as far
   as that shortens the queue (`Guide.burst`), cooldown or not;
3. inter-token latency over target: when the queue is long as well, the fleet is too small, and lower limits would only
   lengthen the queue: not below the baseline; else fewer tokens a step when only its tail is
   over (prefills interfere), else fewer sequences;
4. requests wait, the sequence cap binds, KV cache and inter-token latency leave room: more sequences, and again after a fifth
   of the cooldown while that does not suffice: a queue that grows for a whole cooldown is late for another one;
5. first token late although the queue is short: more tokens a step while latency allows, else fewer sequences;
6. the token budget is not where the step model would have it: there. While the model is not known: when the budget was
   lowered and there is room again, back towards the baseline.

A raise must pass a prediction first: inter-token latency is taken to grow in proportion to the limit, which is an upper
bound, or, where the step model is known (`Guide`), as it predicts. A lowering is the inverse of a raise, so a value between the two is left alone and the rules do not oscillate.
"""

import math

from headway_planner.feedforward import BURST_AT
from headway_planner.model import (
    MIN_REQUEST_SAMPLES,
    MIN_TOKEN_SAMPLES,
    BatchLimits,
    Direction,
    Guide,
    LoadView,
    TuneConfig,
    TuneDecision,
    TuneState,
)

KV_CEILING = 0.9  # above it, more sequences only mean preemption
# Shorter windows say too little: a new operator has seen one sample, and an engine between two requests.
MIN_SPAN_S = 4.0
BURST_AGAIN_S = 5.0  # after another change
# After a raise that did not suffice: three passes at least, and a share of the cooldown.
AGAIN_S, AGAIN_SHARE = 6.0, 0.2
MAX_RAISE = 2.0  # most growth of the sequence cap at once: the step model was learnt at smaller batches
DEAD_BAND = 0.1  # share of the token budget that is not worth a change
BLIND = "hold: "  # begins the reason while nothing can be judged
CAP_BINDS = 0.9  # running over the cap at which the cap is what holds requests back


def decide_tune(
    view: LoadView, config: TuneConfig, state: TuneState, now_s: float, guide: Guide | None = None
) -> TuneDecision:
    """The limits for every engine of the fleet now. `guide` None: the step model is not known."""
    current = clamp(state.limits, config)
    since = math.inf if state.last_change_s is None else now_s - state.last_change_s
    if current != state.limits:
        return TuneDecision(current, f"limits moved inside tuning.bounds: {_change(state.limits, current)}")
    blind = _blind(view)
    if blind:
        return TuneDecision(current, blind, hold=True)
    burst = _burst(view, current, guide)
    if burst and guide is not None and since >= BURST_AGAIN_S and current.tokens < guide.burst:
        wanted = BatchLimits(current.seqs, guide.burst)
        return TuneDecision(wanted, f"{burst}: {_change(current, wanted)}")
    again_s = max(AGAIN_S, AGAIN_SHARE * config.cooldown_s)
    if since < config.cooldown_s and not (since >= again_s and _queue_stays(view, config, state)):
        text = f"cooling down: last change {since:.0f} s ago, cooldown {config.cooldown_s:.0f} s"
        return TuneDecision(current, text, hold=True)
    wanted, reason = _wanted(view, config, state, guide)
    wanted = clamp(wanted, config)
    if wanted != current:
        if _reverses(state, wanted) and not view.quiet and since < 2 * config.cooldown_s:
            wanted, reason = current, f"{reason}; a change of direction waits for 2 cooldowns"
        else:
            reason = f"{reason}: {_change(current, wanted)}"
    return TuneDecision(wanted, reason, breach=not burst and _breach(view, config, state))


def _blind(view: LoadView) -> str:
    """Why nothing can be judged; "" when it can."""
    if not view.fresh:
        return f"{BLIND}{view.reporting} of {view.serving} replicas report"
    if view.span_s < MIN_SPAN_S:
        return f"{BLIND}samples of {view.span_s:.0f} s say too little yet"
    return ""


def clamp(limits: BatchLimits, config: TuneConfig) -> BatchLimits:
    """Limits inside the bounds, with a step that has room for one token of every sequence."""
    seqs = min(max(limits.seqs, config.seqs_min), config.seqs_max, config.tokens_max)
    tokens = min(max(limits.tokens, config.tokens_min, seqs), config.tokens_max)
    return BatchLimits(seqs, tokens)


def _reverses(state: TuneState, wanted: BatchLimits) -> bool:
    """Whether one of the two limits would go back the way it has just come. A raise of one forbids no cut of the other."""
    if state.before is None:
        return False
    before, now = state.before, state.limits
    steps = ((before.seqs, now.seqs, wanted.seqs), (before.tokens, now.tokens, wanted.tokens))
    return any((then < here) != (here < there) for then, here, there in steps if then != here != there)


def _wanted(view: LoadView, config: TuneConfig, state: TuneState, guide: Guide | None) -> tuple[BatchLimits, str]:
    limits, itl = state.limits, _itl(view)
    waiting = view.waiting / view.reporting
    if view.quiet:
        return state.baseline, "no traffic, back to the baseline"
    burst = _burst(view, limits, guide)
    if burst:
        return limits, f"{burst}: a larger token budget would not shorten it"
    if itl is not None and itl > config.itl_target_ms:
        return _relieve_step(view, config, state, guide)
    if waiting >= 1 and _cap_binds(view, limits):
        return _admit_more(view, config, limits, guide)
    if view.ttft.count >= MIN_REQUEST_SAMPLES and (view.ttft.high_ms or 0) > config.ttft_target_ms:
        return _speed_up_prefill(view, config, limits, guide)
    return _settle(view, config, state, guide)


def _settle(view: LoadView, config: TuneConfig, state: TuneState, guide: Guide | None) -> tuple[BatchLimits, str]:
    """Nothing is late: the token budget goes where it belongs."""
    limits, itl = state.limits, _itl(view)
    wanted, reason = limits.tokens, "nothing to change"
    if guide is not None and abs(guide.tokens - limits.tokens) > DEAD_BAND * limits.tokens:
        wanted = guide.tokens
        reason = f"the step model gives {guide.tokens} tokens a step within {config.itl_target_ms:.0f} ms"
    elif guide is None and limits.tokens < state.baseline.tokens:
        raised = _raised(limits.tokens, config)
        if _fits(itl, config, limits.tokens, raised):
            wanted, reason = min(raised, state.baseline.tokens), "there is room, token budget back towards the baseline"
    seen = f"{view.ttft.percentile} TTFT {_ms(view.ttft.high_ms)}, ITL {_ms(itl)}, queue {view.waiting / view.reporting:.1f} per replica"
    return BatchLimits(limits.seqs, wanted), f"{seen}: {reason}"


def _itl(view: LoadView) -> float | None:
    return view.itl.high_ms if view.itl.count >= MIN_TOKEN_SAMPLES else None


def _cap_binds(view: LoadView, limits: BatchLimits) -> bool:
    return view.busiest_running >= CAP_BINDS * limits.seqs


def _queue_stays(view: LoadView, config: TuneConfig, state: TuneState) -> bool:
    """Limits were raised, the sequence cap is full, requests wait, and the time between tokens is inside its target.

    The view may hold some seconds from before the raise. The gaps since then are far more than a twentieth of it, so a high
    percentile shows them.
    """
    itl = _itl(view)
    inside = itl is None or itl <= config.itl_target_ms
    raised = state.last_direction is Direction.UP
    return raised and inside and view.waiting >= view.reporting and _cap_binds(view, state.limits)


def _burst(view: LoadView, limits: BatchLimits, guide: Guide | None) -> str:
    """Why the token budget should be as large as it can be; "" when it should not. No budget helps against a full batch."""
    if guide is None or guide.pressure < BURST_AT or _cap_binds(view, limits):
        return ""
    return f"the prompts that wait take {guide.pressure:.0%} of the TTFT target"


def _breach(view: LoadView, config: TuneConfig, state: TuneState) -> bool:
    """The time between tokens is over its target, and not because the fleet is too small."""
    itl = _itl(view)
    return itl is not None and itl > config.itl_target_ms and not _too_few(view, config, state)


def _too_few(view: LoadView, config: TuneConfig, state: TuneState) -> bool:
    # A whole batch waiting shows the same as late first tokens do, and sooner.
    return _late_by_queue(view, config) or view.waiting / view.reporting >= state.limits.seqs


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


def _relieve_step(view: LoadView, config: TuneConfig, state: TuneState, guide: Guide | None) -> tuple[BatchLimits, str]:
    limits, itl = state.limits, _itl(view) or 0.0
    if _too_few(view, config, state):
        return _keep_throughput(view, config, state, itl)
    over = f"ITL {_ms(itl)} > {_ms(config.itl_target_ms)}"
    used = min(limits.seqs, math.ceil(view.busiest_running))
    if guide is not None:
        return _to_guide(limits, guide, used, over)
    only_tail = view.itl.median_ms is not None and view.itl.median_ms <= 0.8 * config.itl_target_ms
    if only_tail and view.prompt_share > 0.2 and limits.tokens > max(config.tokens_min, limits.seqs):
        return BatchLimits(limits.seqs, _lowered(limits.tokens, config)), f"{over} while prefills share the step"
    if used > config.seqs_min:
        return BatchLimits(_lowered(used, config), limits.tokens), f"{over} with {used} sequences running"
    return limits, f"{over}, limits already at their lower bound"


def _to_guide(limits: BatchLimits, guide: Guide, used: int, over: str) -> tuple[BatchLimits, str]:
    """The model tells prompts and sequences apart, which the gaps alone do not. What it does not see, `trim` lowers."""
    if limits.tokens > guide.tokens:
        return BatchLimits(limits.seqs, guide.tokens), f"{over} while prefills share the step"
    if used > guide.seqs:
        return BatchLimits(guide.seqs, limits.tokens), f"{over} with {used} sequences running"
    return limits, f"{over}, the step model gives no less than {guide.seqs} sequences and {guide.tokens} tokens"


def _admit_more(
    view: LoadView, config: TuneConfig, limits: BatchLimits, guide: Guide | None
) -> tuple[BatchLimits, str]:
    itl = _itl(view)
    queue = f"queue {view.waiting / view.reporting:.1f} per replica with all {limits.seqs} sequences running"
    if view.kv_usage >= KV_CEILING:
        return limits, f"{queue}, but KV cache {view.kv_usage:.0%} full"
    if limits.seqs >= config.seqs_max:
        return limits, f"{queue}, maxNumSeqs at its upper bound"
    if guide is not None and guide.seqs > limits.seqs:
        seqs = min(guide.seqs, math.ceil(MAX_RAISE * limits.seqs))
        return BatchLimits(seqs, limits.tokens), (
            f"{queue}, ITL {guide.seqs_itl_ms:.0f} ms predicted for {guide.seqs} <= {_ms(config.itl_target_ms)}"
        )
    # Far below the target the steps may be larger; each candidate has to pass the prediction.
    for factor in (2 * config.step, config.step, 0.0):
        seqs = min(limits.seqs + max(1, math.floor(limits.seqs * factor)), config.seqs_max)
        if _fits(itl, config, limits.seqs, seqs):
            room = "no ITL seen yet" if itl is None else f"ITL {_ms(itl)} <= {_ms(config.itl_target_ms)}"
            return BatchLimits(seqs, limits.tokens), f"{queue}, {room}"
    return limits, f"{queue}, ITL {_ms(itl)} leaves no room below {_ms(config.itl_target_ms)}"


def _speed_up_prefill(
    view: LoadView, config: TuneConfig, limits: BatchLimits, guide: Guide | None
) -> tuple[BatchLimits, str]:
    late = f"{view.ttft.percentile} TTFT {_ms(view.ttft.high_ms)} > {_ms(config.ttft_target_ms)}"
    if _late_by_queue(view, config):
        return limits, f"{late}, queue wait {_ms(view.queue_wait.high_ms)} is most of it: capacity, not limits"
    prefill = view.prefill.high_ms or 0.0
    if guide is not None:
        if guide.tokens > limits.tokens * (1 + DEAD_BAND):
            return BatchLimits(limits.seqs, guide.tokens), f"{late}, of which prefill {_ms(prefill)}"
        return (
            limits,
            f"{late}, of which prefill {_ms(prefill)}: more tokens a step would break the time between tokens",
        )
    tokens = _raised(limits.tokens, config)
    if limits.tokens < config.tokens_max and _fits(_itl(view), config, limits.tokens, tokens):
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
