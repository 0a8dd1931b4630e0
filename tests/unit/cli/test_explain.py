"""What a person is told of a fleet, from its status alone."""

from typing import Any

from fleet_world import spec
from rule_examples import changed

from headway_cli.explain import text

OPEN = {"since": "2026-01-01T01:00:00Z", "until": "2026-01-01T02:00:00Z"}
LIMITS = {"maxNumSeqs": 4, "maxNumBatchedTokens": 512, "batchWaitMilliseconds": 0}


def fleet(conditions: list[dict[str, str]], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "demo", "name": "chat"},
        "spec": {
            "slo": {"windowSeconds": 30, "ttft": {"targetMilliseconds": 500, "percentile": 95}},
            "scaling": {"mode": "Auto"},
            "tuning": {"mode": "Auto"},
        },
        "status": {"conditions": conditions, **status},
    }


def condition(kind: str, status: str, reason: str = "R", message: str = "m") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def test_only_conditions_that_are_not_well_are_shown_with_their_words() -> None:
    found = text(
        fleet(
            [
                condition("Ready", "False", "Starting", "0 of 1 replicas are ready"),
                condition("Paused", "False"),
                condition("SLOMet", "Unknown"),
                condition("ScalingLimited", "True", "MaxReplicas", "3 is the most"),
            ]
        )
    )
    assert "  Ready=False Starting: 0 of 1 replicas are ready" in found
    assert "  ScalingLimited=True MaxReplicas: 3 is the most" in found
    assert "Paused" not in found
    assert "SLOMet" not in found


def test_an_actuator_that_nobody_asked_for_is_no_trouble() -> None:
    one = fleet([condition("ScalingActive", "False")])
    one["spec"]["scaling"]["mode"] = "Off"
    assert "All conditions are well" in text(one)
    one["spec"]["scaling"]["mode"] = "Auto"
    assert "ScalingActive=False" in text(one)


def test_while_a_spec_is_refused_the_one_that_runs_is_explained() -> None:
    one = fleet([condition("Accepted", "False", "InvalidSpec", "spec.replicas: why")])
    one["status"]["lastAccepted"] = {"generation": 1, "spec": {"slo": {"ttft": {"targetMilliseconds": 900}}}}
    found = text(one)
    assert "Accepted=False InvalidSpec: spec.replicas: why" in found
    assert "target 900 ms" in found


def test_measurements_stand_beside_their_targets() -> None:
    found = text(
        fleet(
            [condition("Ready", "True")],
            slo={"ttftObservedMilliseconds": 431, "sampleCount": 12, "lastSampleTime": "2026-01-01T00:00:00Z"},
        )
    )
    assert "Measured over 30 s, written 2026-01-01T00:00:00Z" in found
    assert "  TTFT  p95 431 ms, target 500 ms" in found
    assert "  ITL   p95 no samples" in found
    assert "  12 requests" in found


def test_demand_stands_in_engines_with_the_request_and_the_step_behind_it() -> None:
    demand = {
        "time": "2026-01-01T00:03:00Z",
        "perMinute": [100, 2600, 1840],
        "inputTokens": 24,
        "outputTokens": 32,
        "stepMicroseconds": 39800,
        "sequenceMicroseconds": 12010,
        "promptTokenMicroseconds": 2510,
    }
    found = text(fleet([condition("Ready", "True")], demand=demand))
    assert "Demand 1.84 engines in the minute to 2026-01-01T00:03:00Z, 2.60 at most in 3 min" in found
    assert "  mean request: 24 tokens in, 32 out" in found
    assert "  an engine step: 39.8 ms + 12.01 ms per sequence + 2.510 ms per prompt token" in found
    assert "Demand" not in text(fleet([condition("Ready", "True")]))


def test_decisions_have_their_reasons_and_changes_of_both_actuators_are_in_order() -> None:
    found = text(
        fleet(
            [condition("Ready", "True")],
            scaling={
                "desiredReplicas": 2,
                "reason": "queue 9 per replica",
                "history": [{"time": "2026-01-01T00:00:10Z", "from": 1, "to": 2, "reason": "queue 9"}],
            },
            tuning={
                "effective": LIMITS,
                "reason": "ITL has room",
                "history": [
                    {
                        "time": "2026-01-01T00:00:20Z",
                        "from": LIMITS,
                        "to": {**LIMITS, "maxNumSeqs": 6},
                        "reason": "late: maxNumSeqs 4 -> 6",
                    },
                    {
                        "time": "2026-01-01T00:00:05Z",
                        "from": LIMITS,
                        "to": {**LIMITS, "maxNumSeqs": 3},
                        "reason": "early",
                    },
                ],
            },
        )
    )
    assert "Scaling Auto: desired replicas 2\n  queue 9 per replica" in found
    assert "Tuning Auto: maxNumSeqs 4, maxNumBatchedTokens 512, batchWaitMilliseconds 0\n  ITL has room" in found
    changes = found[found.index("Last changes") :].splitlines()[1:]
    assert changes == [
        "  2026-01-01T00:00:20Z  late: maxNumSeqs 4 -> 6",
        "  2026-01-01T00:00:10Z  replicas 1 -> 2: queue 9",
        "  2026-01-01T00:00:05Z  maxNumSeqs 4 -> 3: early",
    ]


def test_a_fleet_that_no_operator_has_seen_says_so() -> None:
    assert "is it running?" in text({"metadata": {"namespace": "a", "name": "b"}, "spec": {}})


def test_each_limit_says_where_it_comes_from() -> None:
    one = changed(
        {"metadata.namespace": "demo", "spec.slo": {"workloadClass": "realtime"}},
        {"spec.engine.limits": {"maxQueuedRequests": 30}},
    )
    found = text({**one, "status": {"conditions": [condition("Ready", "True")]}})
    assert "  from engine.limits: maxQueuedRequests 30\n" in found
    assert "  from class realtime: maxNumSeqs 4, maxNumBatchedTokens 512, batchWaitMilliseconds 0" in found
    one["spec"]["slo"] = {"workloadClass": "batch", "interTokenLatency": {"targetMilliseconds": 700}}
    found = text({**one, "status": {"conditions": [condition("Ready", "True")]}})
    assert "  from engine.capacity: maxNumSeqs 32, maxNumBatchedTokens 512\n" in found
    assert "  from slo.interTokenLatency: itlTargetMilliseconds 700\n" in found
    one["spec"]["slo"] = {
        "workloadClass": "realtime",
        "classes": [{"workloadClass": "interactive", "interTokenLatency": {"targetMilliseconds": 80}}],
    }
    found = text({**one, "status": {"conditions": [condition("Ready", "True")]}})
    assert "  from slo.interTokenLatency: interactiveItlTargetMilliseconds 80\n" in found
    assert "itlTargetMilliseconds 50, " in found[found.index("  from classes realtime, interactive: ") :]


def test_when_first_tokens_are_due_says_where_it_comes_from() -> None:
    def found(**slo: object) -> list[str]:
        one = changed({"metadata.namespace": "demo", "spec.slo": slo})
        lines = text({**one, "status": {"conditions": [condition("Ready", "True")]}}).splitlines()
        return [line for line in lines if "tftTargetMilliseconds" in line]

    written = {"targetMilliseconds": 800}
    (alone,) = found(workloadClass="realtime")
    assert alone.startswith("  from class realtime: ")
    assert alone.endswith("ttftTargetMilliseconds 400, interactiveTtftTargetMilliseconds 0")
    assert "  from slo.ttft: ttftTargetMilliseconds 800" in found(workloadClass="interactive", ttft=written)
    shared = found(workloadClass="realtime", classes=[{"workloadClass": "interactive", "ttft": written}])
    assert "  from slo.ttft: interactiveTtftTargetMilliseconds 800" in shared
    assert any(line.startswith("  from classes realtime, interactive: ") for line in shared), "nobody wrote 400"
    (batch,) = found(workloadClass="batch", ttft={"targetMilliseconds": 3000})
    assert batch.startswith("  from class batch: "), "its target orders no queue"


def test_open_windows_are_named_with_what_they_set_and_limits_have_them_as_their_source() -> None:
    window = {"name": "night", "cron": "0 1 * * *", "durationSeconds": 3600, "limits": {"maxNumSeqs": 16}}
    schedule = {
        "active": [{**OPEN, "name": "night", "overrides": ["limits.maxNumSeqs 16"]}],
        "setAside": [{"name": "calm", "until": OPEN["until"], "message": "with window night open, x"}],
        "nextChangeTime": OPEN["until"],
    }
    ready = {**condition("Ready", "True"), "lastTransitionTime": OPEN["since"]}
    one = fleet([ready], schedule=schedule)
    one["spec"] = spec(schedules=[window])
    found = text(one)
    assert (
        "Windows\n  night until 2026-01-01T02:00:00Z: limits.maxNumSeqs 16\n"
        "  calm until 2026-01-01T02:00:00Z is set aside: with window night open, x\n  next change 2026-01-01T02:00:00Z\n"
    ) in found
    assert "  from window night: maxNumSeqs 16\n" in found
    closed = text(
        fleet([condition("Ready", "True")], schedule={"active": [], "nextChangeTime": "2026-01-02T01:00:00Z"})
    )
    assert "Windows: none is open\n  next change 2026-01-02T01:00:00Z" in closed


def test_each_class_of_a_shared_fleet_stands_beside_its_own_target() -> None:
    classes = [
        {
            "workloadClass": "interactive",
            "ttftObservedMilliseconds": 430,
            "ttftTargetMilliseconds": 1500,
            "interTokenLatencyObservedMilliseconds": 80,
            "interTokenLatencyTargetMilliseconds": 100,
            "attainmentPercent": 99,
            "sampleCount": 240,
        },
        {"workloadClass": "batch", "ttftTargetMilliseconds": 10000, "interTokenLatencyTargetMilliseconds": 500},
    ]
    found = text(fleet([condition("Ready", "True")], slo={"classes": classes}))
    assert (
        "  interactive: TTFT 430 ms, target 1500 ms, 99 % of 240 first tokens within it; ITL 80 ms, target 100 ms\n"
        in found
    )
    assert "  batch: TTFT no samples, target 10000 ms; ITL no samples, target 500 ms\n" in found


def test_a_target_that_nobody_wrote_is_the_classes() -> None:
    one = fleet([condition("Ready", "True")], slo={"ttftObservedMilliseconds": 431})
    one["spec"]["slo"] = {"workloadClass": "realtime", "windowSeconds": 30}
    found = text(one)
    assert "  TTFT  p95 431 ms, target 400 ms\n" in found
    assert "  ITL   p95 no samples, target 50 ms\n" in found


def test_work_with_a_deadline_is_told_with_its_end_and_what_it_asks_for() -> None:
    found = {"seconds": 900, "waitingRequests": 120, "finishedCount": 30, "lateCount": 2}
    ends = {"doneInSeconds": 400, "spareSeconds": -60, "neededReplicas": 3}
    one = fleet([condition("Ready", "True")], slo={"ttftObservedMilliseconds": 43_000, "deadline": {**found, **ends}})
    one["spec"]["slo"] = {"workloadClass": "batch", "deadlineSeconds": 900}
    told = text(one)
    assert "  TTFT  p95 43000 ms\n" in told, "no target"
    assert (
        "  deadline 900 s: 120 requests wait or run, done in 400 s at this size, 60 s AFTER the tightest deadline; "
        "2 of 30 that ended were late" in told
    )
    assert "  it asks for 3 replicas, other classes included" in told
    written = changed({"metadata.namespace": "demo", "spec.slo": {"workloadClass": "batch", "deadlineSeconds": 900}})
    written["status"] = {"conditions": [condition("Ready", "True")]}
    assert "  from slo.deadlineSeconds: batchDeadlineSeconds 900" in text(written)
    one["status"]["slo"]["deadline"] = {**found, "doneInSeconds": 400, "spareSeconds": 350}
    assert "done in 400 s at this size, 350 s before the tightest deadline" in text(one)
    one["status"]["slo"]["deadline"] = found
    assert "120 requests wait or run, it is not known by when they are done at this size" in text(one)
    one["status"]["slo"]["deadline"] = {**found, "neededReplicas": 3}
    assert "120 requests wait or run, at this size they are never done: other classes leave nothing free" in text(one)
    one["status"]["slo"]["deadline"] = {**found, "waitingRequests": 0}
    assert "0 requests wait or run; 2 of 30" in text(one)


def test_a_class_with_a_deadline_has_first_tokens_and_no_target_for_them() -> None:
    batch = {"workloadClass": "batch", "sampleCount": 16, "ttftObservedMilliseconds": 9000}
    told = text(fleet([condition("Ready", "True")], slo={"ttftObservedMilliseconds": 90, "classes": [batch]}))
    assert "  batch: TTFT 9000 ms, no target; ITL no samples, no target\n" in told
