"""Whole passes over a fleet that several classes share."""

from typing import Any

from engine_samples import buckets
from fleet_world import World, spec

from headway_operator.core.observed import ClassSample

ENGINE = {"device": "cpu", "capacity": {"maxNumSeqs": 16, "maxNumBatchedTokens": 256}}
SHARED = {"workloadClass": "interactive", "windowSeconds": 30, "classes": [{"workloadClass": "batch"}]}


def world(**overrides: object) -> World:
    one = World(spec(slo=SHARED, engine=ENGINE, **overrides))
    one.settle()
    return one


def serve(one: World, chat_ms: float, batch_ms: float) -> None:
    """Thirty requests of each class on every engine, and a pass that sees them."""
    for engine in one.engines.values():
        engine.classes = {
            "interactive": ClassSample(buckets(*[chat_ms] * 30), (), buckets(*[50.0] * 30)),
            "batch": ClassSample(buckets(*[batch_ms] * 30), (), buckets(*[300.0] * 30)),
        }
        engine.received += 60
    for _ in range(8):
        one.step(1)


def classes(one: World) -> dict[str, dict[str, Any]]:
    return {item["workloadClass"]: item for item in one.status["slo"]["classes"]}


def test_status_shows_each_class_beside_its_target_and_the_own_one_on_top() -> None:
    one = world()
    serve(one, 430.0, 4300.0)
    found = classes(one)
    assert (found["interactive"]["ttftTargetMilliseconds"], found["batch"]["ttftTargetMilliseconds"]) == (1500, 10_000)
    assert (found["interactive"]["attainmentPercent"], found["batch"]["attainmentPercent"]) == (100, 100)
    assert found["interactive"]["sampleCount"] == found["batch"]["sampleCount"] == 30
    assert one.status["slo"]["ttftObservedMilliseconds"] == found["interactive"]["ttftObservedMilliseconds"] < 500
    assert 4000 < found["batch"]["ttftObservedMilliseconds"] < 5000
    met = one.condition("SLOMet")
    assert met["status"] == "True"
    assert "interactive TTFT" in met["message"]
    assert "batch inter-token latency" in met["message"]


def test_the_condition_names_the_class_that_is_missed() -> None:
    one = world()
    serve(one, 430.0, 43_000.0)
    met = one.condition("SLOMet")
    assert met["status"] == "False"
    assert "interactive TTFT 440 ms <= 1500 ms" in met["message"]
    assert "ms > 10000 ms, batch inter-token latency" in met["message"]
    assert classes(one)["batch"]["attainmentPercent"] == 0


def test_a_class_that_comes_and_goes_changes_running_engines_and_no_pod() -> None:
    one = World(spec(slo={"workloadClass": "interactive"}, engine=ENGINE))
    one.settle()
    pods, (engine,) = dict(one.pods), one.engines.values()
    assert one.status["tuning"]["effective"]["reservedPercent"] == 0
    one.edit(slo=SHARED)
    one.settle()
    assert (engine.effective.reserved_percent, engine.effective.max_queued_batch_requests) == (20, 1024)
    assert one.status["tuning"]["effective"]["reservedPercent"] == 20
    one.edit(slo={"workloadClass": "batch"})
    one.settle()
    assert (engine.effective.reserved_percent, engine.effective.default_class) == (0, "batch")
    assert one.pods == pods


SCALED = {"mode": "Auto", "minReplicas": 1, "maxReplicas": 3}


def heap(one: World, batch_ms: float) -> None:
    """Forty batch requests wait on the engine for a quarter of a minute."""
    for engine in one.engines.values():
        engine.waiting = engine.waiting_batch = 40
        engine.running = 4
    serve(one, 430.0, batch_ms)
    for _ in range(10):
        one.step(1)


def test_batch_work_that_waits_for_slack_inside_its_target_starts_no_replica() -> None:
    one = world(scaling=SCALED)
    heap(one, 4300.0)
    assert one.status["scaling"]["desiredReplicas"] == 1


def test_batch_work_that_misses_its_own_target_does() -> None:
    one = world(scaling=SCALED)
    heap(one, 60_000.0)
    assert one.status["scaling"]["desiredReplicas"] > 1
    assert any(
        "judged by class batch (of interactive, batch)" in item["reason"] for item in one.status["scaling"]["history"]
    )
