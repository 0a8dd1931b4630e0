"""First tokens in time and not, as the loop counts them from the histograms of engines that come and go."""

from collections.abc import Mapping
from typing import Any

import pytest
from engine_samples import buckets, sample

from headway_operator.api.v1alpha1 import Slo
from headway_operator.core.histogram import above
from headway_operator.core.intake import Reports
from headway_operator.core.memory import LoopMemory
from headway_operator.core.objectives import Verdict, judge
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.online import take_in
from headway_operator.core.work import EVERY

SLO = Slo.model_validate({"workloadClass": "interactive", "classes": [{"workloadClass": "batch"}]})


def engine(second: float, boot: str, ttft: tuple[int, ...], queue_wait: tuple[int, ...], **more: Any) -> EngineSample:
    return sample(taken_s=second, boot_id=boot, ttft=ttft, queue_wait=queue_wait, **more)


def counted(series: list[EngineSample], targets_ms: Mapping[str, float], slo: Slo | None = None) -> tuple[float, ...]:
    memory = LoopMemory()
    for one in series:
        taken = take_in(Reports(1, {"a": one}, targets_ms), memory, Verdict(judge(slo, {})))
        memory = LoopMemory(engines=taken.engines, online=taken.online, totals=taken.intake.totals)
    first = memory.totals.first
    return (first.answered, round(first.late, 6), round(first.queued, 6))


def test_first_tokens_are_counted_beside_the_only_target_and_waits_beside_half_of_it() -> None:
    before = engine(0.0, "x", buckets(5000.0, 5000.0), buckets(4000.0))
    after = engine(2.0, "x", buckets(5000.0, 5000.0, 5000.0, 100.0), buckets(4000.0, 900.0, 900.0, 1.0))
    assert counted([before, after], {EVERY: 1500.0}) == (2, 1, 2)


def test_an_engine_that_restarted_adds_all_that_its_new_process_counted() -> None:
    series = [engine(0.0, "x", buckets(5000.0), ()), engine(2.0, "y", buckets(5000.0, 10.0), buckets(4000.0, 1.0))]
    assert counted(series, {EVERY: 1500.0}) == (2, 1, 1)


def test_without_an_objective_nothing_is_late() -> None:
    assert counted([engine(0.0, "x", (), ()), engine(2.0, "x", buckets(5000.0), ())], {}) == (0, 0, 0)


def test_each_class_has_its_own_target_and_batch_work_in_slack_does_not_count() -> None:
    late = ClassSample(ttft=buckets(5000.0, 5000.0), queue_wait=buckets(4000.0, 4000.0))
    series = [
        engine(0.0, "x", (), ()),
        engine(2.0, "x", (), (), classes={"interactive": late, "batch": late}),
    ]
    targets = {"interactive": 1500.0, "batch": 10_000.0}
    assert counted(series, targets, SLO) == (2, 2, 2)
    pair = Slo.model_validate({"workloadClass": "interactive", "classes": [{"workloadClass": "realtime"}]})
    series[1] = engine(2.0, "x", (), (), classes={"interactive": late, "realtime": late})
    assert counted(series, {"interactive": 6000.0, "realtime": 400.0}, pair) == (4, 2, 4)


def test_values_above_a_bound_are_interpolated_in_its_bucket() -> None:
    counts = buckets(100.0, 1000.0, 1000.0)
    assert above(counts, 500.0) == pytest.approx(2)
    assert above(counts, 50_000.0) == pytest.approx(0)
    assert above((), 1.0) == 0
