"""Symptoms of the two latencies: why first tokens are late, why tokens come slowly.

Each rule answers with what was measured and the cure, or None. `was`: the symptom is reported already, see `evidence`.
"""

import math

from headway_operator.api.v1alpha1 import BatchingMode, Profile
from headway_operator.core.cures import more_replicas, more_sequences
from headway_operator.core.evidence import CLEAR_MAJORITY, Evidence, above, below
from headway_planner.model import MIN_REQUEST_SAMPLES, MIN_TOKEN_SAMPLES, Latency

ALONE = 1.5  # sequences that the busiest engine runs on average, from which on a request is not alone with it
NO_QUEUE = 0.1  # share of the target that queue wait may have on an idle engine
QUEUED = 2.0  # requests that wait, and times the target that they will, from which on a queue is judged by its length
WAIT_COUNTS = 0.25  # share of the time to first token from which on batchWaitMilliseconds matters
HEADROOM = 1.2  # a recommended target lies so far above what was measured
MOSTLY_PROMPTS = 0.5  # share of prompt tokens from which on prefill makes the steps long


def prompts_too_long(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """Prefill alone exceeds the target although the engine has nothing else to do: no actuator can meet it."""
    view, target = evidence.view, evidence.ttft_target_ms
    prefill, queue = view.prefill, view.queue_wait.high_ms or 0.0
    if target is None or prefill.high_ms is None or prefill.count < MIN_REQUEST_SAMPLES:
        return None
    idle = below(queue, NO_QUEUE * target, was) and below(evidence.load.busiest_mean, ALONE, was)
    if not (idle and evidence.late(was) and above(prefill.high_ms, target, was)):
        return None
    least = _round_up(HEADROOM * prefill.high_ms)
    words = (
        f"{_whose(evidence)} prefill{_of_length(evidence)} alone takes {_ms(prefill)} > TTFT target {target:.0f} ms on engines with "
        f"nothing else to do ({evidence.load.busiest_mean:.1f} sequences on average, queue wait {queue:.0f} ms): the objective is infeasible, "
        "no count of replicas and no limit reaches it"
    )
    cure = (
        f"raise spec.slo.ttft.targetMilliseconds to {least} or more, cut prompts (spec.engine.maxModelLen with "
        "promptPolicy), or use a faster device"
    )
    return words, cure


def batch_wait_too_long(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """First tokens are late, tokens/s keep up: requests wait for company while slots are free."""
    view, limits = evidence.view, evidence.limits
    queue, ttft = view.queue_wait, view.ttft.high_ms or 0.0
    if (
        not evidence.late(was)
        or queue.median_ms is None
        or above(evidence.load.busiest_mean, 0.9 * limits.max_num_seqs, False)
    ):
        return None
    target = evidence.ttft_target_ms or 0.0
    head = (
        f"{_whose(evidence)} TTFT {ttft:.0f} ms > {target:.0f} ms with tokens/s steady at {evidence.load.tokens_per_s:.0f}: "
        f"requests wait {queue.median_ms:.0f} ms (median) for company while {evidence.load.busiest_mean:.1f} of "
        f"{limits.max_num_seqs} sequences run"
    )
    if limits.batching_mode is BatchingMode.STATIC and above(evidence.queue_share, CLEAR_MAJORITY, was):
        return f"{head}; batchingMode is Static", "set spec.engine.limits.batchingMode Continuous (live)"
    wait = limits.batch_wait_milliseconds
    matters = wait > 0 and above(wait, WAIT_COUNTS * ttft, was)
    explains = above(queue.median_ms, 0.5 * wait, was) and below(queue.high_ms or 0.0, 2.0 * wait, was)
    if not (matters and explains):
        return None
    compute = view.prefill.high_ms or 0.0
    room = int(max(0.0, 0.5 * (target - compute)))
    return (
        f"{head}; batchWaitMilliseconds is {wait}",
        f"lower spec.engine.limits.batchWaitMilliseconds from {wait} to {min(room, wait // 2)} (live, no pod restarts)",
    )


def queue_too_long(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """First tokens are late, and most of that time is queue wait; or they will be, by the length of the queue.

    Limits that were just raised get a cooldown's time to shorten it: the window holds waits from before.
    """
    view, itl, target = evidence.view, evidence.view.itl.high_ms, evidence.itl_target_ms
    running = (
        f"in the mean of {evidence.window_s:.0f} s {view.waiting:.1f} requests wait, {evidence.load.busiest_mean:.1f} of {evidence.limits.max_num_seqs} sequences run in "
        "the busiest engine"
    )
    raised = not was and evidence.raised_s < evidence.spec.tuning.cooldown_seconds
    if raised or evidence.kv_binds(was):
        return None
    if evidence.late(was) and above(evidence.queue_share, CLEAR_MAJORITY, was):
        words = (
            f"{_whose(evidence)} TTFT {_ms(view.ttft)} > {evidence.ttft_target_ms:.0f} ms is queue wait: {_ms(view.queue_wait)} "
            f"against {_ms(view.prefill)} of compute; {running}"
        )
    elif _will_be_late(evidence, was):
        words = (
            f"{running}, and {evidence.load.share * view.queue_wait.count:.0f} began in {evidence.window_s:.0f} s: at this rate one that comes now "
            f"{_begins(evidence.backlog_ms)}, the TTFT target is {evidence.ttft_target_ms:.0f} ms"
        )
    else:
        return None
    tokens_have_room = itl is None or target is None or below(itl, 0.7 * target, was)
    if evidence.slots_bind(was) and tokens_have_room:
        return words, f"maxNumSeqs binds and ITL has room: {more_sequences(evidence)}"
    return words, f"the engines are busy: {more_replicas(evidence)}"


def _will_be_late(evidence: Evidence, was: bool) -> bool:
    """A queue of which too few have begun to judge their waits, seen for as long as such a wait is."""
    target = evidence.ttft_target_ms
    if target is None or evidence.view.ttft.count >= MIN_REQUEST_SAMPLES:
        return False
    late_ms = QUEUED * target
    # In the first seconds of an engine nobody has begun yet, whatever its speed.
    seen = 1000 * evidence.window_s >= late_ms
    return seen and above(evidence.view.waiting, QUEUED, was) and above(evidence.backlog_ms, late_ms, was)


def prefill_too_slow(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """First tokens are late, and most of that time is compute."""
    if not evidence.late(was) or above(evidence.queue_share, CLEAR_MAJORITY, False):
        return None
    view, limits = evidence.view, evidence.limits
    words = (
        f"{_whose(evidence)} TTFT {_ms(view.ttft)} > {evidence.ttft_target_ms:.0f} ms is compute: {_ms(view.prefill)} of "
        f"prefill{_of_length(evidence)} against {_ms(view.queue_wait)} of queue wait, beside {evidence.load.busiest_mean:.1f} running sequences in the busiest "
        "engine; scaling on the queue does not see it"
    )
    if limits.profile is Profile.LOW_TAIL:
        return words, (
            "profile LowTail holds prompts back beside running streams: set spec.engine.limits.profile Throughput, or "
            f"raise spec.slo.interTokenLatency.targetMilliseconds above {limits.itl_target_milliseconds}"
        )
    fewer = f"lower maxNumSeqs from {limits.max_num_seqs} (live), so that fewer share a step"
    budget, most = limits.max_num_batched_tokens, evidence.spec.engine.capacity.max_num_batched_tokens
    if (evidence.prompt_length or 0.0) <= 0.5 * budget:
        return words, f"{fewer}, or use a faster device: prompts fit into a step as it is"
    wider = (
        f"raise maxNumBatchedTokens from {budget} (capacity {most})"
        if budget < most
        else f"raise spec.engine.capacity.maxNumBatchedTokens above {most}"
    )
    return words, f"{wider}, so that a prompt needs fewer steps; {fewer}"


def steps_too_long(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """Tokens come slower than the objective: each step takes too long."""
    view, target = evidence.view, evidence.itl_target_ms
    itl, limits = view.itl, evidence.limits
    if (
        target is None
        or itl.high_ms is None
        or itl.count < MIN_TOKEN_SAMPLES
        or not above(itl.high_ms, 1.01 * target, was)
    ):
        return None
    words = (
        f"{itl.percentile} time between tokens {_ms(itl)} > {target:.0f} ms: steps take {_ms(evidence.load.step)} "
        f"with {evidence.load.busiest_mean:.1f} sequences in the busiest engine, {view.prompt_share:.0%} of their tokens are prompt"
    )
    if below(evidence.load.busiest_mean, ALONE, was) and view.prompt_share < MOSTLY_PROMPTS:
        return words, (
            f"one sequence alone is too slow: raise spec.slo.interTokenLatency.targetMilliseconds to "
            f"{_round_up(HEADROOM * itl.high_ms)} or more, or use a faster device"
        )
    if view.prompt_share >= MOSTLY_PROMPTS and limits.profile is not Profile.LOW_TAIL:
        return words, (
            "prompts interrupt running streams: set spec.engine.limits.profile LowTail, or lower maxNumBatchedTokens "
            f"from {limits.max_num_batched_tokens} (live)"
        )
    return words, f"lower maxNumSeqs from {limits.max_num_seqs} (live), and {more_replicas(evidence)}"


def _of_length(evidence: Evidence) -> str:
    length = evidence.prompt_length
    return "" if length is None else f" (prompts of {length:.0f} tokens on average)"


def _whose(evidence: Evidence) -> str:
    """The class that is judged, where there are several, and the percentile of its first tokens."""
    judged = "" if evidence.judged is None else f"{evidence.judged.value} "
    return f"{judged}{evidence.view.ttft.percentile}"


def _ms(latency: Latency) -> str:
    return "an unknown time" if latency.high_ms is None else f"{latency.high_ms:.0f} ms"


def _begins(wait_ms: float) -> str:
    return f"begins in {wait_ms / 1000:.0f} s" if math.isfinite(wait_ms) else "never begins"


def _round_up(value: float) -> int:
    """To the next 10 ms."""
    return -int(-value // 10) * 10
