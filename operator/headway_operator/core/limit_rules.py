"""Rules over limits and bounds that need the defaults filled in: for a spec, and for a spec inside a window.

The same rules judge both; what differs is where the user wrote the value, so the caller names the fields.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from headway_operator.api.parse import FieldError
from headway_operator.api.v1alpha1 import LLMDeploymentSpec, Range, TuningMode, baseline_limits

Naming: TypeAlias = Callable[[str], str]  # `engine.limits.maxNumSeqs` to where the user wrote it


def in_spec(field: str) -> str:
    """A field of the spec itself."""
    return f"spec.{field}"


def in_window(name: str) -> Naming:
    """The same fields in a window of spec.schedules."""
    return lambda field: f"spec.schedules[{name}].{field.removeprefix('engine.')}"


def contradictions(spec: LLMDeploymentSpec, naming: Naming = in_spec) -> Iterator[FieldError]:
    """What cannot hold together."""
    scaling, capacity, limits = spec.scaling, spec.engine.capacity, spec.engine.limits
    if scaling.max_replicas is not None and scaling.min_replicas > scaling.max_replicas:
        text = f"minReplicas {scaling.min_replicas} cannot exceed maxReplicas {scaling.max_replicas}"
        yield FieldError(naming("scaling"), text)
    queued = "maxQueuedRequests", capacity.max_queued_requests
    for name, value, (bound, most) in (
        ("maxNumSeqs", limits.max_num_seqs, ("maxNumSeqs", capacity.max_num_seqs)),
        (
            "maxNumBatchedTokens",
            limits.max_num_batched_tokens,
            ("maxNumBatchedTokens", capacity.max_num_batched_tokens),
        ),
        ("maxQueuedRequests", limits.max_queued_requests, queued),
        ("maxQueuedBatchRequests", limits.max_queued_batch_requests, queued),
    ):
        if value is not None and value > most:
            text = f"cannot exceed engine.capacity.{bound} ({most}), is {value}"
            yield FieldError(naming(f"engine.limits.{name}"), text)
    baseline, bounds = baseline_limits(spec), spec.tuning.bounds
    if baseline.max_num_batched_tokens < baseline.max_num_seqs:
        yield FieldError(
            naming("engine.limits.maxNumBatchedTokens"),
            f"must be at least maxNumSeqs ({baseline.max_num_seqs}), is {baseline.max_num_batched_tokens}: a decode step needs "
            "one token for each sequence",
        )
    if spec.tuning.mode is not TuningMode.OFF:
        for name, value, inside in (
            ("maxNumSeqs", baseline.max_num_seqs, bounds.max_num_seqs),
            ("maxNumBatchedTokens", baseline.max_num_batched_tokens, bounds.max_num_batched_tokens),
        ):
            yield from _outside(naming, name, value, inside)


def _outside(naming: Naming, name: str, value: int, bounds: Range | None) -> Iterator[FieldError]:
    if bounds is not None and not bounds.min <= value <= bounds.max:
        text = f"must lie inside spec.tuning.bounds.{name} ({bounds.min} to {bounds.max}), is {value}"
        yield FieldError(naming(f"engine.limits.{name}"), text)
