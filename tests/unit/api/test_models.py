from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from rule_examples import changed

from headway_operator.api.v1alpha1 import (
    BatchingMode,
    LimitValues,
    LLMDeployment,
    Profile,
    TuningChange,
    baseline_limits,
    itl_target_ms,
    ttft_target_ms,
)


def fleet(**change: Any) -> LLMDeployment:
    dotted = {path.replace("__", "."): value for path, value in change.items()}
    return LLMDeployment.model_validate(changed({"metadata.namespace": "default"}, dotted))


@pytest.mark.parametrize(
    ("workload_class", "ttft", "itl"), [("realtime", 400, 50), ("interactive", 1500, 100), ("batch", 10_000, 500)]
)
def test_class_brings_its_targets(workload_class: str, ttft: int, itl: int) -> None:
    spec = fleet(spec__slo={"workloadClass": workload_class}).spec
    assert (ttft_target_ms(spec), itl_target_ms(spec)) == (ttft, itl)


def test_given_target_beats_the_class() -> None:
    slo = {
        "workloadClass": "batch",
        "ttft": {"targetMilliseconds": 3000},
        "interTokenLatency": {"targetMilliseconds": 9},
    }
    assert (ttft_target_ms(fleet(spec__slo=slo).spec), itl_target_ms(fleet(spec__slo=slo).spec)) == (3000, 9)


def test_without_objective_there_is_no_target() -> None:
    assert ttft_target_ms(fleet().spec) is None
    assert itl_target_ms(fleet().spec) is None


def test_baseline_is_the_capacity_until_limits_say_less() -> None:
    assert baseline_limits(fleet().spec) == LimitValues(
        max_num_seqs=32,
        max_num_batched_tokens=512,
        batch_wait_milliseconds=0,
        max_queued_requests=256,
        batching_mode=BatchingMode.CONTINUOUS,
        profile=Profile.THROUGHPUT,
        itl_target_milliseconds=50,
    )
    given = {
        "maxNumSeqs": 8,
        "maxNumBatchedTokens": 64,
        "batchWaitMilliseconds": 2,
        "maxQueuedRequests": 9,
        "batchingMode": "Adaptive",
        "profile": "LowTail",
    }
    found = baseline_limits(fleet(spec__engine__limits=given).spec).model_dump(mode="json", by_alias=True)
    assert found == {
        **given,
        "itlTargetMilliseconds": 50,
        "defaultClass": "interactive",
        "reservedPercent": 0,
        "maxQueuedBatchRequests": 0,
        "batchDeadlineSeconds": 0,
        "interactiveItlTargetMilliseconds": 0,
        "batchItlTargetMilliseconds": 0,
        "ttftTargetMilliseconds": 0,
        "interactiveTtftTargetMilliseconds": 0,
    }


def test_the_gap_that_low_tail_aims_at_is_the_objectives() -> None:
    slo = {"workloadClass": "interactive", "interTokenLatency": {"targetMilliseconds": 80}}
    assert baseline_limits(fleet(spec__slo=slo).spec).itl_target_milliseconds == 80


def test_baseline_queue_never_exceeds_its_capacity() -> None:
    assert baseline_limits(fleet(spec__engine__capacity__maxQueuedRequests=100).spec).max_queued_requests == 100


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"packed": {"path": "/models/smollm2.gguf"}}, "smollm2"),
        ({"hostPath": {"path": "/srv/Llama-3.1-8B/"}}, "Llama-3.1-8B"),
        ({"pvc": {"claimName": "weights"}}, "chat"),
        ({"image": {"reference": "models/x:1", "path": "qwen/q4.gguf"}}, "q4"),
    ],
)
def test_served_name_comes_from_the_path_or_else_from_the_fleet(source: dict[str, Any], name: str) -> None:
    assert fleet(spec__model__source=source).model_name == name
    assert fleet(spec__model={"source": source, "servedName": "mine"}).model_name == "mine"


def test_models_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        fleet().spec.paused = True


def test_status_times_are_whole_seconds_so_that_reading_back_is_equal() -> None:
    limits = LimitValues(max_num_seqs=1, max_num_batched_tokens=1, batch_wait_milliseconds=0, max_queued_requests=1)
    now = datetime(2026, 1, 1, 12, 0, 0, 987_654, tzinfo=UTC)
    change = TuningChange(time=now, from_=limits, to=limits, reason="queue 9 > 4")
    written = change.model_dump(mode="json", by_alias=True)
    assert written["time"] == "2026-01-01T12:00:00Z"
    assert written["from"] == written["to"]
    assert TuningChange.model_validate(written) == change


def test_integer_quantity_becomes_text() -> None:
    assert fleet(spec__engine__resources={"limits": {"cpu": 2}}).spec.engine.resources.limits == {"cpu": "2"}
