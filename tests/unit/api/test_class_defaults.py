"""What a workload class fills in, and that it never touches what the user wrote."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_examples import changed

from headway_operator.api.class_defaults import CLASS_DEFAULTS
from headway_operator.api.v1alpha1 import (
    BatchingMode,
    LimitValues,
    LLMDeployment,
    LLMDeploymentSpec,
    Profile,
    Range,
    WorkloadClass,
    baseline_limits,
    tuning_bounds,
)

CLASSES = tuple(kind.value for kind in WorkloadClass)


def spec(kind: str | None, limits: dict[str, Any] | None = None, **change: Any) -> LLMDeploymentSpec:
    dotted = {path.replace("__", "."): value for path, value in change.items()}
    slo = {"spec.slo": {"workloadClass": kind}} if kind else {}
    capacity = {"spec.engine.capacity": {"maxNumSeqs": 64, "maxNumBatchedTokens": 2048}}
    written = {"spec.engine.limits": limits} if limits else {}
    manifest = changed({"metadata.namespace": "default"}, capacity, slo, written, dotted)
    return LLMDeployment.model_validate(manifest).spec


LIMITS: dict[str | None, tuple[object, ...]] = {
    "realtime": (4, 512, 0, 8, BatchingMode.CONTINUOUS, Profile.LOW_TAIL, 50),
    "interactive": (64, 2048, 5, 16, BatchingMode.DYNAMIC, Profile.THROUGHPUT, 100),
    "batch": (64, 2048, 20, 1024, BatchingMode.CONTINUOUS, Profile.THROUGHPUT, 500),
    None: (64, 2048, 0, 256, BatchingMode.CONTINUOUS, Profile.THROUGHPUT, 50),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_each_class_brings_its_limits(kind: str | None) -> None:
    limits = baseline_limits(spec(kind))
    assert tuple(limits.model_dump().values())[: len(LIMITS[kind])] == LIMITS[kind]
    assert limits.default_class == (kind or "interactive")
    assert (limits.reserved_percent, limits.max_queued_batch_requests) == (0, 0)


def pooled(own: str, *others: str, limits: dict[str, Any] | None = None, **capacity: int) -> LimitValues:
    slo = {"workloadClass": own, "classes": [{"workloadClass": kind} for kind in others]}
    sizes = {"maxNumSeqs": 64, "maxNumBatchedTokens": 2048, **capacity}
    return baseline_limits(spec(None, limits, spec__slo=slo, spec__engine__capacity=sizes))


def test_batch_beside_a_better_class_waits_for_its_slack_in_a_queue_of_its_own() -> None:
    for own, other in (("interactive", "batch"), ("batch", "interactive")):
        limits = pooled(own, other)
        assert (limits.reserved_percent, limits.max_queued_batch_requests) == (20, 1024)
        assert (limits.max_queued_requests, limits.batching_mode) == (16, BatchingMode.DYNAMIC)
        assert limits.default_class == own
    assert pooled("interactive", "batch", maxQueuedRequests=100).max_queued_batch_requests == 100
    written = {"reservedPercent": 0, "maxQueuedBatchRequests": 0}
    limits = pooled("interactive", "batch", limits=written)
    assert (limits.reserved_percent, limits.max_queued_batch_requests) == (0, 0)


def test_the_best_class_says_how_steps_are_made_and_the_slots_are_for_all() -> None:
    limits = pooled("batch", "interactive", "realtime")
    assert (limits.batching_mode, limits.profile) == (BatchingMode.CONTINUOUS, Profile.LOW_TAIL)
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (64, 512)
    assert limits.itl_target_milliseconds == 50
    assert pooled("realtime", "interactive").reserved_percent == 0


def itl_targets(limits: LimitValues) -> tuple[int, int, int]:
    own = limits.interactive_itl_target_milliseconds, limits.batch_itl_target_milliseconds
    return (limits.itl_target_milliseconds, *own)


def test_each_class_of_a_shared_fleet_brings_the_gap_that_its_own_streams_keep_to() -> None:
    assert itl_targets(pooled("realtime", "interactive", "batch")) == (50, 100, 500)
    assert itl_targets(pooled("batch", "realtime")) == (50, 0, 500), "it serves no interactive streams"
    assert itl_targets(pooled("interactive", "batch")) == (100, 0, 0), (
        "theirs is the least, and Throughput bounds none of batch"
    )
    low_tail = {"profile": "LowTail"}
    assert itl_targets(pooled("interactive", "batch", limits=low_tail)) == (100, 0, 500)
    slo = {
        "workloadClass": "realtime",
        "classes": [{"workloadClass": "interactive", "interTokenLatency": {"targetMilliseconds": 80}}],
    }
    assert itl_targets(baseline_limits(spec(None, spec__slo=slo))) == (50, 80, 0)
    assert itl_targets(baseline_limits(spec("batch", low_tail))) == (500, 0, 500)
    assert itl_targets(baseline_limits(spec(None, low_tail))) == (50, 0, 0)


def ttft_targets(limits: LimitValues) -> tuple[int, int]:
    return limits.ttft_target_milliseconds, limits.interactive_ttft_target_milliseconds


@pytest.mark.parametrize(("kind", "target"), [("realtime", 400), ("interactive", 1500), ("batch", 0), (None, 0)])
def test_engines_are_told_when_the_first_tokens_of_a_class_with_a_reader_are_due(kind: str | None, target: int) -> None:
    assert ttft_targets(baseline_limits(spec(kind))) == (target, 0)


def test_each_class_of_a_shared_fleet_brings_when_its_own_first_tokens_are_due() -> None:
    assert ttft_targets(pooled("realtime", "interactive", "batch")) == (400, 1500)
    assert ttft_targets(pooled("interactive", "realtime")) == (400, 1500)
    assert ttft_targets(pooled("batch", "realtime")) == (400, 0), "it serves no interactive requests"
    assert ttft_targets(pooled("batch", "interactive")) == (1500, 0), "theirs is the shortest of those with a reader"


def test_a_written_target_for_the_first_token_is_the_one_that_engines_are_told() -> None:
    def written(kind: str, target: int, *classes: dict[str, Any]) -> tuple[int, int]:
        slo = {"workloadClass": kind, "ttft": {"targetMilliseconds": target}, "classes": classes}
        return ttft_targets(baseline_limits(spec(None, spec__slo=slo)))

    interactive = {"workloadClass": "interactive", "ttft": {"targetMilliseconds": 700}}
    assert written("realtime", 250) == (250, 0)
    assert written("realtime", 250, interactive) == (250, 700)
    assert written("batch", 3000) == (0, 0)
    assert written("batch", 3000, interactive) == (700, 0)
    deferred = {"workloadClass": "interactive", "classes": [{"workloadClass": "batch", "deadlineSeconds": 900}]}
    assert ttft_targets(baseline_limits(spec(None, spec__slo=deferred))) == (1500, 0)


@pytest.mark.parametrize(
    ("kind", "seqs", "tokens"),
    [
        ("realtime", Range(min=1, max=4), Range(min=64, max=2048)),
        ("interactive", Range(min=4, max=64), Range(min=128, max=2048)),
        ("batch", Range(min=32, max=64), Range(min=512, max=2048)),
        (None, Range(min=1, max=64), Range(min=1, max=2048)),
    ],
)
def test_each_class_brings_its_bounds(kind: str | None, seqs: Range, tokens: Range) -> None:
    assert tuning_bounds(spec(kind)) == (seqs, tokens)


WRITTEN: dict[str, Any] = {
    "maxNumSeqs": 7,
    "maxNumBatchedTokens": 99,
    "batchWaitMilliseconds": 0,
    "maxQueuedRequests": 33,
    "batchingMode": "Static",
    "profile": "Throughput",
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("field", WRITTEN)
def test_what_the_user_wrote_beats_every_class(kind: str, field: str) -> None:
    alone = {field: WRITTEN[field]} | ({"maxNumSeqs": 7} if field == "maxNumBatchedTokens" else {})
    found = baseline_limits(spec(kind, alone)).model_dump(mode="json", by_alias=True)
    assert {name: found[name] for name in alone} == alone


@pytest.mark.parametrize("kind", CLASSES)
def test_written_bounds_beat_every_class_and_hold_the_start(kind: str) -> None:
    bounds = {"maxNumSeqs": {"min": 9, "max": 11}, "maxNumBatchedTokens": {"min": 600, "max": 700}}
    tuned = spec(kind, spec__tuning={"mode": "Auto", "bounds": bounds})
    limits = baseline_limits(tuned)
    assert tuning_bounds(tuned) == (Range(min=9, max=11), Range(min=600, max=700))
    assert 9 <= limits.max_num_seqs <= 11
    assert 600 <= limits.max_num_batched_tokens <= 700


def test_bounds_mean_nothing_while_tuning_is_off() -> None:
    off = spec("realtime", spec__tuning={"mode": "Off", "bounds": {"maxNumSeqs": {"min": 9, "max": 11}}})
    assert baseline_limits(off).max_num_seqs == 4


@given(
    kind=st.sampled_from(WorkloadClass),
    seqs=st.integers(1, 300),
    extra=st.integers(0, 20_000),
    queued=st.integers(1, 5000),
    written=st.none() | st.integers(1, 300),
)
def test_defaults_always_fit_the_capacity_and_the_bounds(
    kind: WorkloadClass, seqs: int, extra: int, queued: int, written: int | None
) -> None:
    capacity = {"maxNumSeqs": seqs, "maxNumBatchedTokens": seqs + extra, "maxQueuedRequests": queued}
    limits = {"maxNumSeqs": min(written, seqs)} if written else None
    one = spec(kind.value, limits, spec__engine__capacity=capacity, spec__tuning={"mode": "Auto"})
    start, (seqs_range, tokens_range) = baseline_limits(one), tuning_bounds(one)
    assert 1 <= start.max_num_seqs <= start.max_num_batched_tokens <= seqs + extra
    assert start.max_num_seqs <= seqs
    assert 1 <= start.max_queued_requests <= queued
    assert 1 <= seqs_range.min <= start.max_num_seqs <= seqs_range.max <= seqs
    assert 1 <= tokens_range.min <= start.max_num_batched_tokens <= tokens_range.max == seqs + extra


def test_classes_stand_in_order() -> None:
    queues = [CLASS_DEFAULTS[kind].max_queued_requests for kind in WorkloadClass]
    waits = [CLASS_DEFAULTS[kind].batch_wait_milliseconds for kind in WorkloadClass]
    assert queues == sorted(queues)
    assert waits == sorted(waits)
