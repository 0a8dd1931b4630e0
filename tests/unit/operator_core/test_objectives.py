"""Which class decides in a fleet of several, and by which numbers."""

from collections.abc import Mapping

import pytest
from engine_samples import buckets, sample
from fleet_world import spec

from headway_operator.api.v1alpha1 import LLMDeploymentSpec, Slo, WorkloadClass
from headway_operator.core.load import deciding_view, fleet_load
from headway_operator.core.objectives import ClassCounts, judge, verdict
from headway_operator.core.observed import ClassSample

SLO = Slo.model_validate(
    {"workloadClass": "interactive", "classes": [{"workloadClass": "batch"}, {"workloadClass": "realtime"}]}
)


def counts(**ttft_ms: float) -> Mapping[str, ClassCounts]:
    return {
        kind: ClassCounts(buckets(*[value] * 20), buckets(*[value / 2] * 20), buckets(*[9.0] * 20))
        for kind, value in ttft_ms.items()
    }


@pytest.mark.parametrize(
    ("ttft_ms", "decides"),
    [
        ({"realtime": 100, "interactive": 300, "batch": 900}, "realtime"),  # nearest to its target, all within
        ({"realtime": 100, "interactive": 1200, "batch": 900}, "interactive"),
        ({"realtime": 100, "interactive": 300, "batch": 9000}, "batch"),
        ({"realtime": 100, "interactive": 300, "batch": 90_000}, "batch"),  # the only one that is missed
        ({"realtime": 100, "interactive": 3000, "batch": 90_000}, "interactive"),  # the strictest of those missed
        ({"realtime": 500, "interactive": 30_000, "batch": 90_000}, "realtime"),
        ({"batch": 900}, "batch"),
    ],
)
def test_the_strictest_missed_class_decides_or_else_the_nearest(ttft_ms: dict[str, float], decides: str) -> None:
    found = judge(SLO, counts(**ttft_ms))
    assert found is not None
    assert found.decides.kind == decides


def test_few_requests_of_a_class_do_not_decide() -> None:
    few = {"realtime": ClassCounts(ttft=buckets(*[9000.0] * 7)), **counts(interactive=300)}
    found = judge(SLO, few)
    assert found is not None
    assert found.decides.kind is WorkloadClass.INTERACTIVE


def test_the_time_between_tokens_has_the_strictest_target_and_is_measured_on_the_best_that_had_streams() -> None:
    found = judge(SLO, counts(interactive=300, batch=90_000))
    assert found is not None
    assert found.streams.kind is WorkloadClass.INTERACTIVE
    targets = found.spec(LLMDeploymentSpec.model_validate(spec(slo=SLO.model_dump(by_alias=True)))).slo
    assert targets is not None
    assert targets.ttft_target.target_milliseconds == 10_000
    assert targets.inter_token_latency_target.target_milliseconds == 50
    assert targets.workload_class is WorkloadClass.INTERACTIVE


def test_a_fleet_of_one_class_is_judged_by_all_its_requests() -> None:
    assert judge(Slo(workload_class=WorkloadClass.BATCH), counts(interactive=9000)) is None
    assert judge(None, {}) is None


def test_attainment_is_the_share_of_first_tokens_within_the_target() -> None:
    mixed = {"interactive": ClassCounts(ttft=buckets(*[100.0] * 30, *[5000.0] * 10))}
    found = judge(SLO, mixed)
    assert found is not None
    assert [load.attainment for load in found.loads] == [None, pytest.approx(0.75), None]


@pytest.mark.parametrize(("batch_ms", "waiting"), [(900.0, 2.0), (90_000.0, 9.0)])
def test_batch_work_that_waits_for_slack_is_no_queue_until_its_own_target_is_missed(
    batch_ms: float, waiting: float
) -> None:
    classes = {
        "interactive": ClassSample(buckets(*[300.0] * 20), (), buckets(*[20.0] * 20)),
        "batch": ClassSample(buckets(*[batch_ms] * 20), (), buckets(*[40.0] * 20)),
    }
    gauges = {"num_waiting": 9, "num_waiting_batch": 7}
    samples = {"a": (sample(taken_s=0.0, **gauges), sample(taken_s=10.0, classes=classes, **gauges))}
    load = fleet_load(["a"], samples, 10.0, 60.0)
    view = deciding_view(load, verdict(SLO, load.classes))
    assert view.waiting == waiting
    assert view.itl.high_ms == pytest.approx(20, rel=0.1)
    assert view.ttft.high_ms == pytest.approx(300.0 if waiting == 2 else batch_ms, rel=0.1)
