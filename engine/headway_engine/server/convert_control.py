"""Statistics and limits between protobuf and the core, for the control port."""

from collections.abc import Iterable

from headway_engine.core.histogram import Histogram
from headway_engine.core.limits import (
    BatchingMode,
    Bounds,
    Envelope,
    Limits,
    LimitsPatch,
    Profile,
    RuntimeConfigState,
)
from headway_engine.core.metrics import ClassSnapshot
from headway_engine.core.request import Priority, Rejected, StatusCode
from headway_engine.runtime.stats import StatsSnapshot
from headway_engine.server.convert import CLASS_NUMBERS, CLASSES, to_loads
from headway_rpc import pb

_MODES = {
    pb.BATCHING_MODE_CONTINUOUS: BatchingMode.CONTINUOUS,
    pb.BATCHING_MODE_STATIC: BatchingMode.STATIC,
    pb.BATCHING_MODE_DYNAMIC: BatchingMode.DYNAMIC,
    pb.BATCHING_MODE_ADAPTIVE: BatchingMode.ADAPTIVE,
}
_PROFILES = {
    pb.PROFILE_THROUGHPUT: Profile.THROUGHPUT,
    pb.PROFILE_LOW_TAIL: Profile.LOW_TAIL,
}
_MODE_NUMBERS = {mode: number for number, mode in _MODES.items()}
_PROFILE_NUMBERS = {profile: number for number, profile in _PROFILES.items()}


def to_stats(stats: StatsSnapshot) -> pb.Stats:
    """The whole snapshot."""
    return pb.Stats(
        boot_id=stats.boot_id,
        uptime_seconds=stats.uptime_seconds,
        loads=to_loads(stats.loads),
        ttft=to_histogram(stats.ttft),
        queue_wait=to_histogram(stats.queue_wait),
        prefill=to_histogram(stats.prefill),
        itl=to_histogram(stats.itl),
        e2e=to_histogram(stats.e2e),
        step=to_histogram(stats.step),
        requests_received=stats.requests_received,
        requests_finished=stats.requests_finished,
        requests_rejected=stats.requests_rejected,
        prompt_tokens=stats.prompt_tokens,
        cached_prompt_tokens=stats.cached_prompt_tokens,
        generation_tokens=stats.generation_tokens,
        preemptions=stats.preemptions,
        steps=stats.steps,
        config=to_runtime_config(stats.config),
        classes=(_to_class(kind, one) for kind, one in stats.classes.items()),
    )


def _to_class(kind: Priority, one: ClassSnapshot) -> pb.ClassStats:
    return pb.ClassStats(
        workload_class=CLASS_NUMBERS[kind],
        ttft=to_histogram(one.ttft),
        queue_wait=to_histogram(one.queue_wait),
        itl=to_histogram(one.itl),
        requests_finished=one.finished,
        requests_late=one.late,
        requests_refused=one.refused,
        requests_admitted=one.admitted,
        prompt_tokens_admitted=one.prompt_tokens_admitted,
        prompt_tokens=one.prompt_tokens,
        cached_prompt_tokens=one.cached_prompt_tokens,
        requests_moved=one.moved,
    )


def to_histogram(histogram: Histogram) -> pb.Histogram:
    """Same buckets, same meaning."""
    return pb.Histogram(buckets=histogram.buckets, count=histogram.count, sum_ms=histogram.sum_ms)


def to_runtime_config(state: RuntimeConfigState) -> pb.RuntimeConfig:
    """The limits as a reader sees them."""
    return pb.RuntimeConfig(
        revision=state.revision,
        effective=_to_limits(state.effective),
        baseline=_to_limits(state.baseline),
        envelope=_to_envelope(state.envelope),
        lease_remaining_seconds=state.lease_remaining_s,
    )


def to_patch(limits: pb.Limits) -> LimitsPatch | Rejected:
    """Unset fields stay None: left as they are. A mode or profile that this engine does not know is refused."""
    mode = _MODES.get(limits.batching_mode)
    if limits.HasField("batching_mode") and mode is None:
        return _unknown("batching_mode", limits.batching_mode, _MODES.values())
    profile = _PROFILES.get(limits.profile)
    if limits.HasField("profile") and profile is None:
        return _unknown("profile", limits.profile, _PROFILES.values())
    kind = CLASSES.get(limits.default_class)
    if limits.HasField("default_class") and kind is None:
        return _unknown("default_class", limits.default_class, (kind.name.lower() for kind in Priority))
    batch = limits.max_queued_batch_requests if limits.HasField("max_queued_batch_requests") else None
    interactive_itl = limits.interactive_itl_target_ms if limits.HasField("interactive_itl_target_ms") else None
    interactive_ttft = limits.interactive_ttft_target_ms if limits.HasField("interactive_ttft_target_ms") else None
    return LimitsPatch(
        max_num_seqs=limits.max_num_seqs if limits.HasField("max_num_seqs") else None,
        max_num_batched_tokens=limits.max_num_batched_tokens if limits.HasField("max_num_batched_tokens") else None,
        batch_wait_ms=limits.batch_wait_ms if limits.HasField("batch_wait_ms") else None,
        max_queued_requests=limits.max_queued_requests if limits.HasField("max_queued_requests") else None,
        batching_mode=mode,
        profile=profile,
        itl_target_ms=limits.itl_target_ms if limits.HasField("itl_target_ms") else None,
        reserved_percent=limits.reserved_percent if limits.HasField("reserved_percent") else None,
        default_class=kind,
        max_queued_batch_requests=batch,
        batch_deadline_ms=limits.batch_deadline_ms if limits.HasField("batch_deadline_ms") else None,
        interactive_itl_target_ms=interactive_itl,
        batch_itl_target_ms=limits.batch_itl_target_ms if limits.HasField("batch_itl_target_ms") else None,
        ttft_target_ms=limits.ttft_target_ms if limits.HasField("ttft_target_ms") else None,
        interactive_ttft_target_ms=interactive_ttft,
    )


def _unknown(field: str, number: int, known: Iterable[str]) -> Rejected:
    return Rejected(StatusCode.INVALID_ARGUMENT, f"limits.{field} is {number}, it must be one of {', '.join(known)}")


def _to_limits(limits: Limits) -> pb.Limits:
    return pb.Limits(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        batch_wait_ms=limits.batch_wait_ms,
        max_queued_requests=limits.max_queued_requests,
        batching_mode=_MODE_NUMBERS[limits.batching_mode],
        profile=_PROFILE_NUMBERS[limits.profile],
        itl_target_ms=limits.itl_target_ms,
        reserved_percent=limits.reserved_percent,
        default_class=CLASS_NUMBERS[limits.default_class],
        max_queued_batch_requests=limits.max_queued_batch_requests,
        batch_deadline_ms=limits.batch_deadline_ms,
        interactive_itl_target_ms=limits.interactive_itl_target_ms,
        batch_itl_target_ms=limits.batch_itl_target_ms,
        ttft_target_ms=limits.ttft_target_ms,
        interactive_ttft_target_ms=limits.interactive_ttft_target_ms,
    )


def _to_envelope(envelope: Envelope) -> pb.Envelope:
    return pb.Envelope(
        max_num_seqs=_to_bounds(envelope.max_num_seqs),
        max_num_batched_tokens=_to_bounds(envelope.max_num_batched_tokens),
        batch_wait_ms=_to_bounds(envelope.batch_wait_ms),
        max_queued_requests=_to_bounds(envelope.max_queued_requests),
        itl_target_ms=_to_bounds(envelope.itl_target_ms),
        reserved_percent=_to_bounds(envelope.reserved_percent),
        max_queued_batch_requests=_to_bounds(envelope.max_queued_batch_requests),
        batch_deadline_ms=_to_bounds(envelope.batch_deadline_ms),
        interactive_itl_target_ms=_to_bounds(envelope.interactive_itl_target_ms),
        batch_itl_target_ms=_to_bounds(envelope.batch_itl_target_ms),
        ttft_target_ms=_to_bounds(envelope.ttft_target_ms),
        interactive_ttft_target_ms=_to_bounds(envelope.interactive_ttft_target_ms),
    )


def _to_bounds(bounds: Bounds) -> pb.Bounds:
    return pb.Bounds(min=bounds.min, max=bounds.max)
