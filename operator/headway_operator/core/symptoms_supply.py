"""Symptoms of what the engines have: batch size, KV cache, queue bound, replicas on their way, and who else writes.

Each rule answers with what was measured and the cure, or None. `was`: the symptom is reported already, see `evidence`.
"""

import math

from headway_operator.core.cures import more_replicas, more_sequences
from headway_operator.core.evidence import CLEAR_MAJORITY, Evidence, above, below
from headway_planner.model import MIN_REQUEST_SAMPLES, MIN_TOKEN_SAMPLES
from headway_planner.scale import replicas

ROOM = 0.7  # share of a latency target, and of the KV cache, below which there is room for larger batches


def batches_too_small(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """Tokens/s are held down by maxNumSeqs while both latencies and the KV cache have room for larger batches."""
    view, ttft_target, itl_target = evidence.view, evidence.ttft_target_ms, evidence.itl_target_ms
    ttft, itl = view.ttft, view.itl
    if ttft_target is None or itl_target is None or ttft.high_ms is None or itl.high_ms is None:
        return None
    if ttft.count < MIN_REQUEST_SAMPLES or itl.count < MIN_TOKEN_SAMPLES:
        return None
    held = evidence.slots_bind(was) and above(view.waiting, 1.0, was)
    room = (
        below(ttft.high_ms, ttft_target, False)
        and below(itl.high_ms, ROOM * itl_target, was)
        and below(view.kv_usage, ROOM, was)
    )
    if not (held and room):
        return None
    words = (
        f"{evidence.load.tokens_per_s:.0f} tokens/s are held down by maxNumSeqs {evidence.limits.max_num_seqs}: "
        f"{evidence.load.busiest_mean:.1f} sequences run in the busiest engine and {view.waiting:.1f} requests wait, while TTFT "
        f"{ttft.high_ms:.0f} ms (target {ttft_target:.0f}), time between tokens {itl.high_ms:.0f} ms (target "
        f"{itl_target:.0f}) and KV cache {view.kv_usage:.0%} have room"
    )
    return words, more_sequences(evidence)


def kv_cache_full(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """The KV cache holds requests back, not the limits."""
    view, limits = evidence.view, evidence.limits
    if not evidence.kv_binds(was):
        return None
    gave_way = (
        f"; {evidence.load.preemptions} sequences gave way and were computed again" if evidence.load.preemptions else ""
    )
    words = (
        f"the KV cache of the fullest engine is {view.kv_usage:.0%} full with {evidence.load.busiest_mean:.1f} of "
        f"{limits.max_num_seqs} sequences running and {view.waiting:.1f} requests waiting{gave_way}"
    )
    memory = evidence.spec.engine.capacity.kv_cache_memory_mebibytes
    larger = (
        f"raise spec.engine.capacity.kvCacheMemoryMebibytes above {memory} (and the memory limit with it)"
        if memory
        else "give spec.engine.capacity.kvCacheMemoryMebibytes a larger value than the default"
    )
    lower = f", lower maxNumSeqs from {limits.max_num_seqs} so that fewer give way" if gave_way else ""
    return words, f"{larger}{lower}, or {more_replicas(evidence)}"


def queue_full(evidence: Evidence, was: bool) -> tuple[str, str] | None:  # noqa: ARG001  (one shape for all rules)
    """Requests are refused because the queue has no room."""
    refused, view = evidence.load.queue_full, evidence.view
    if refused == 0:
        return None
    words = (
        f"{refused} of {view.arrivals} requests were refused in {evidence.window_s:.0f} s: {view.waiting:.0f} wait, "
        f"maxQueuedRequests is {evidence.limits.max_queued_requests} in each of {view.serving} engines"
    )
    return words, (
        f"{more_replicas(evidence)}; a larger spec.engine.limits.maxQueuedRequests refuses fewer and lets all wait longer"
    )


def deadline_missed(evidence: Evidence, was: bool) -> tuple[str, str] | None:  # noqa: ARG001  (one shape for all rules)
    """Batch work ended after its deadline, or some of what waits will at this size."""
    seen = evidence.outlook
    if seen is None or not (seen.late or seen.will_be_late):
        return None
    parts = []
    if seen.late:
        window = f"{evidence.window_s:.0f} s"
        parts.append(
            f"{seen.late} of {seen.finished} batch requests that ended in {window} did so after their deadline of "
            f"{seen.deadline_s:.0f} s"
        )
    if seen.will_be_late and seen.spare_s is not None:
        ends = (
            f"done in {seen.done_s:.0f} s" if seen.done_s is not None and math.isfinite(seen.done_s) else "never done"
        )
        late = f", up to {-seen.spare_s:.0f} s after their deadline" if math.isfinite(seen.spare_s) else ""
        parts.append(f"{seen.waiting} batch requests are {ends} by {evidence.view.serving} replicas{late}")
    asked = f" (the deadline asks for {seen.replicas})" if seen.replicas else ""
    return "; ".join(parts), f"{more_replicas(evidence)}{asked}; or give the work more time: a longer deadlineSeconds"


def cold_start_too_slow(evidence: Evidence, was: bool) -> tuple[str, str] | None:
    """First tokens are late for want of replicas that were ordered and take longer to start than demand takes to grow."""
    supply, each, rise = evidence.supply, evidence.rate_each, evidence.growth
    if supply.warming == 0 or not evidence.late(was) or not above(evidence.queue_share, CLEAR_MAJORITY, was):
        return None
    start_s = max(supply.start_s or 0.0, supply.oldest_warming_s)
    window_s = float(evidence.spec.slo.window_seconds) if evidence.spec.slo else evidence.window_s
    growth_s = each / rise if each is not None and rise is not None and rise > 0 else None
    horizon_s = min(window_s, growth_s) if growth_s is not None else window_s
    if not above(start_s, horizon_s, was):
        return None
    pace = (
        f"the load grew by one replica's worth ({each:.1f} requests/s) in {growth_s:.0f} s"
        if growth_s is not None and growth_s <= window_s
        else f"the objective is judged over {window_s:.0f} s"
    )
    words = (
        f"{replicas(supply.warming)} on the way, {start_s:.0f} s from creation to ready, while {pace}: first tokens "
        "are late until then"
    )
    return words, (
        f"keep more in reserve: raise spec.scaling.minReplicas above {evidence.spec.scaling.min_replicas}, or open a window of "
        "spec.schedules before the load comes; start faster: keep image and model on the nodes"
    )


def rival_writer(evidence: Evidence, was: bool) -> tuple[str, str] | None:  # noqa: ARG001  (one shape for all rules)
    """Somebody else writes what the operator owns; it is reported, not fought."""
    if not evidence.rivals:
        return None
    return "; ".join(evidence.rivals), (
        "let one writer own it: stop the other one, or hand over with spec.scaling.mode External (replicas) or "
        "spec.tuning.mode Off (limits)"
    )


def window_set_aside(evidence: Evidence, was: bool) -> tuple[str, str] | None:  # noqa: ARG001  (one shape for all rules)
    """An open window of spec.schedules contradicts another one, and does not hold meanwhile."""
    if not evidence.set_aside:
        return None
    words = "; ".join(
        f"window {one.name} is set aside until {one.until:%Y-%m-%dT%H:%M:%SZ}: {one.message}"
        for one in evidence.set_aside
    )
    return words, (
        "change spec.schedules so that both can hold, or do not overlap; of two that contradict, the one later in the list "
        "gives way"
    )
