"""What `headway diagnose` concludes from a fleet, its pods and its engines' answers, and how it prints it."""

import json
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from engine_samples import buckets, sample
from fleet_world import spec

from headway_cli import diagnose
from headway_cli.cluster import Fleet
from headway_cli.diagnosis import Diagnosis, Facts, conclude
from headway_cli.errors import CliError
from headway_operator.api.v1alpha1 import LimitValues, LLMDeploymentSpec, baseline_limits
from headway_operator.core.observed import ClassSample, ContainerState, EngineSample, PodView
from headway_operator.core.tuning import patch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = {"type": "Ready", "status": "True", "reason": "AllReplicas", "lastTransitionTime": "2026-01-01T00:00:00Z"}
NAME = Fleet("demo", "chat", "")


def pod(**changes: Any) -> PodView:
    fields: dict[str, Any] = {
        "name": "chat-0",
        "uid": "u",
        "labels": {},
        "annotations": {},
        "phase": "Running",
        "ready": True,
        "ip": "10.0.0.1",
        "node": "n",
        "created": NOW,
        "deleting": False,
        "ready_since": NOW,
    }
    return PodView(**{**fields, **changes})


def facts(
    *series: EngineSample,
    pods: tuple[PodView, ...] = (pod(),),
    conditions: list[dict[str, str]] | None = None,
    silent: dict[str, str] | None = None,
    autoscalers: tuple[str, ...] = (),
    **overrides: Any,
) -> Facts:
    manifest = {
        "metadata": {"namespace": "demo", "name": "chat"},
        "spec": spec(**overrides),
        "status": {"conditions": [READY] if conditions is None else conditions},
    }
    return Facts(manifest, pods, {"chat-0": series} if series else {}, silent or {}, autoscalers, NOW, 10.0)


IDLE = (sample(taken_s=0.0), sample(taken_s=10.0))
LATE = (
    sample(4, taken_s=0.0, num_waiting=3),
    sample(
        4,
        taken_s=10.0,
        num_waiting=9,
        requests_received=30,
        requests_finished=20,
        ttft=buckets(*[2500.0] * 20),
        queue_wait=buckets(*[2300.0] * 20),
        prefill=buckets(*[200.0] * 20),
        itl=buckets(*[60.0] * 200),
    ),
)


def names(found: Diagnosis) -> list[str]:
    return [one.name for one in found.findings]


def test_engines_under_load_are_judged_by_the_operators_rules() -> None:
    found = conclude(facts(*LATE))
    assert names(found) == ["QueueTooLong"]
    assert "is queue wait: " in found.findings[0].words
    assert "1 of 1 engines answer, 30 requests in 10 s, TTFT 2673 ms (target 1500)" in found.measured


def test_a_fleet_without_traffic_has_no_finding_and_a_note_with_what_its_engines_remember() -> None:
    found = conclude(facts(*IDLE))
    assert found.findings == ()
    assert "no request ran, waited or arrived in 10 s" in found.notes[0]
    assert "have had no request since they started. `headway bench online --fleet chat`" in found.notes[0]
    worked = {"requests_received": 40, "ttft": buckets(*[900.0] * 40), "queue_full": 2}
    (note,) = conclude(facts(sample(taken_s=0.0, **worked), sample(taken_s=10.0, **worked))).notes
    assert "Since they started: 40 requests, p95 TTFT 9" in note
    assert "2 refused by a full queue" in note


def test_what_the_operator_saw_in_its_longer_window_is_told_with_its_time() -> None:
    seen = {
        "name": "QueueFull",
        "severity": "critical",
        "message": "31 of 120 requests were refused",
        "cure": "more replicas",
        "since": "2026-01-01T00:00:00Z",
    }
    quiet = facts(*IDLE)
    before = replace(quiet, manifest={**quiet.manifest, "status": {"conditions": [READY], "symptoms": [seen]}})
    (found,) = conclude(before).findings
    assert (found.severity, found.name, found.cure) == ("critical", "QueueFull", "more replicas")
    assert "refused (seen by the operator since 2026-01-01T00:00:00Z, not in these seconds)" in found.words


def batch(here: int, finished: int = 0, late: int = 0, **changes: Any) -> EngineSample:
    """An engine with so many batch requests that are not finished."""
    counts = ClassSample(admitted=here + finished, finished=finished, late=late)
    return sample(min(here, 4), num_waiting=max(0, here - 4), classes={"batch": counts}, **changes)


def with_deadline(*series: EngineSample, **said: int) -> Facts:
    """A fleet for batch work, and what its operator last `said` of the deadline."""
    found = facts(*series, slo={"workloadClass": "batch", "deadlineSeconds": 900, "windowSeconds": 60})
    if not said:
        return found
    deadline = {"seconds": 900, "waitingRequests": 120, **said}
    slo = {"lastSampleTime": "2026-01-01T00:00:00Z", "deadline": deadline}
    return replace(found, manifest={**found.manifest, "status": {"conditions": [READY], "slo": slo}})


WAITS = (batch(120, taken_s=0.0), batch(119, 1, taken_s=10.0))


def test_late_batch_work_is_counted_by_the_engines_themselves() -> None:
    (found,) = conclude(with_deadline(batch(9, 1, taken_s=0.0), batch(5, 5, 3, taken_s=10.0))).findings
    assert found.name == "DeadlineMissed"
    assert found.words == "3 of 4 batch requests that ended in 10 s did so after their deadline of 900 s"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"doneInSeconds": 1200, "spareSeconds": -300}, "are done in 1200 s by 1 replicas, up to 300 s after their"),
        ({}, "are never done by 1 replicas"),
    ],
)
def test_work_that_will_be_late_is_what_waits_now_and_what_the_operator_foretells(
    said: dict[str, int], words: str
) -> None:
    found = conclude(with_deadline(*WAITS, neededReplicas=3, **said))
    (one,) = found.findings
    assert one.name == "DeadlineMissed"
    assert f"119 batch requests {words}" in one.words
    assert "the deadline asks for 3" in one.cure
    assert found.notes[0].startswith("the operator at 2026-01-01T00:00:00Z: deadline 900 s: 120 requests wait or run")


@pytest.mark.parametrize(
    "one",
    [
        with_deadline(*WAITS),
        with_deadline(*WAITS, doneInSeconds=400, spareSeconds=500, neededReplicas=1),
        with_deadline(*WAITS, seconds=600, doneInSeconds=1200, spareSeconds=-600, neededReplicas=3),
        with_deadline(batch(0), batch(0), doneInSeconds=1200, spareSeconds=-300, neededReplicas=3),
    ],
    ids=["nothing foretold", "in time", "foretold for another deadline", "nothing waits any more"],
)
def test_work_that_is_in_time_or_of_which_nothing_is_foretold_is_no_finding(one: Facts) -> None:
    found = conclude(one)
    assert found.findings == ()
    assert not any("first tokens" in note for note in found.notes), "they are judged by nobody"


def test_few_requests_are_told_as_such() -> None:
    few = sample(taken_s=10.0, requests_received=3, ttft=buckets(9000.0, 9000.0, 9000.0))
    found = conclude(facts(IDLE[0], few))
    assert found.findings == ()
    assert "3 first tokens in 10 s are too few to judge latencies by, 8 are needed" in found.notes[0]


def test_conditions_that_ask_for_something_are_findings_and_normal_life_is_none() -> None:
    found = conclude(
        facts(
            *IDLE,
            conditions=[
                {**READY, "status": "False", "reason": "Starting", "message": "1 of 2 replicas are ready"},
                {**READY, "type": "Progressing", "reason": "ScalingOut"},
                {**READY, "type": "ScalingLimited", "reason": "MaxReplicas", "message": "3 is the most"},
                {**READY, "type": "SLOMet", "status": "False", "reason": "TargetMissed"},
            ],
        )
    )
    assert [(one.severity, one.name, one.words) for one in found.findings] == [
        ("critical", "Starting", "Ready is False: 1 of 2 replicas are ready"),
        ("warning", "MaxReplicas", "ScalingLimited is True: 3 is the most"),
    ]


def test_an_operator_that_is_silent_is_a_finding_and_the_pods_speak_for_themselves() -> None:
    killed = ContainerState(False, 3, terminated_reason="OOMKilled", terminated_exit_code=137)
    found = conclude(facts(conditions=[], pods=(pod(ready=False, container=killed),)))
    assert names(found) == ["OperatorSilent", "OutOfMemory"]
    assert "raise spec.engine.resources.limits.memory" in found.findings[1].words


def test_a_deletion_that_no_operator_has_seen_is_a_finding() -> None:
    given = facts()
    metadata = {**given.manifest["metadata"], "generation": 3, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    status = {**given.manifest["status"], "observedGeneration": 2, "conditions": [READY]}
    found = conclude(replace(given, manifest={**given.manifest, "metadata": metadata, "status": status}))
    assert names(found) == ["OperatorSilent"]
    assert "has not seen this fleet's deletion (generation 3, it knows 2)" in found.findings[0].words
    seen = {**status, "observedGeneration": 3}
    assert names(conclude(replace(given, manifest={**given.manifest, "metadata": metadata, "status": seen}))) == []


def test_an_engine_that_does_not_answer_is_named_with_the_reason() -> None:
    found = conclude(facts(silent={"chat-0": "no answer: timed out"}))
    assert names(found) == ["SomeEnginesSilent"]
    assert "pod chat-0 does not answer: no answer: timed out" in found.findings[0].words
    assert "nothing was measured" in found.measured


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"mode": "Auto", "maxReplicas": 3}, "scaling.mode is Auto: the API server refuses its writes"),
        ({"mode": "Off"}, "scaling.mode is Off, which is meant for people"),
        ({"mode": "External"}, None),
    ],
)
def test_an_autoscaler_is_a_rival_unless_the_count_is_handed_over(scaling: dict[str, Any], words: str | None) -> None:
    replicas = {} if scaling["mode"] == "Auto" else {"replicas": 1}
    found = conclude(facts(*IDLE, autoscalers=("web",), scaling=scaling, **replicas))
    assert [words in one.words for one in found.findings] == ([True] if words else [])


def test_a_spec_that_the_operator_refuses_is_said_with_its_reason() -> None:
    found = conclude(facts(*IDLE, engine={"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}}))
    assert names(found) == ["InvalidSpec"]
    assert "maxNumBatchedTokens: must be at least maxNumSeqs (8), is 4" in found.findings[0].words


def test_while_a_spec_is_refused_the_fleet_is_judged_by_the_one_that_runs() -> None:
    read = facts(*LATE, engine={"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}})
    read.manifest["status"]["lastAccepted"] = {"generation": 1, "spec": spec()}  # type: ignore[index]
    assert set(names(conclude(read))) == {"InvalidSpec", *names(conclude(facts(*LATE)))}
    assert len(names(conclude(read))) > 1


def test_tuned_limits_that_nobody_renews_mean_a_silent_operator() -> None:
    base = baseline_limits(LLMDeploymentSpec.model_validate(spec()))
    decided = base.model_copy(update={"max_num_seqs": base.max_num_seqs + 2})

    def found(seqs: int, told: LimitValues, **overrides: Any) -> list[str]:
        limits = replace(patch(base), max_num_seqs=seqs)
        series = (sample(taken_s=0.0, effective=limits), sample(taken_s=10.0, effective=limits))
        read = facts(*series, **overrides)
        status = {"effective": told.model_dump(mode="json", by_alias=True)}
        read.manifest["status"]["tuning"] = status  # type: ignore[index]
        return names(conclude(read))

    assert found(base.max_num_seqs, decided) == ["OperatorSilent"]
    assert found(base.max_num_seqs, decided, paused=True) == [], "a paused fleet is left alone"
    assert found(decided.max_num_seqs, decided) == []
    assert found(base.max_num_seqs, base) == [], "nothing was lent"
    assert "OperatorSilent" not in found(1, decided), "somebody else's limits"


def test_what_two_conditions_say_in_the_same_words_is_said_once() -> None:
    why = 'pods "chat-0" is forbidden: exceeded quota'
    ready = {"type": "Ready", "status": "False", "reason": "PodRefused", "message": f"0 of 1 replicas are ready: {why}"}
    limited = {"type": "ScalingLimited", "status": "True", "reason": "PodRefused", "message": why}
    found = conclude(facts(pods=(), conditions=[ready, limited]))
    assert [one.words for one in found.findings] == [f"Ready is False: 0 of 1 replicas are ready: {why}"]
    bad = {"capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 4}}
    (live,) = conclude(facts(*IDLE, engine=bad)).findings
    refusal = {"status": "False", "reason": "InvalidSpec", "message": live.words.partition(": ")[2]}
    conditions = [{"type": "Accepted", **refusal}, {"type": "Ready", **refusal}]
    found = conclude(facts(*IDLE, engine=bad, conditions=conditions))
    assert [one.words for one in found.findings] == [f"Accepted is False: {refusal['message']}"]


def test_text_and_json_say_the_same() -> None:
    found = conclude(facts(*LATE))
    page = diagnose.text(NAME, found, ["2026-01-01T00:00:00Z  Unschedulable: no room"])
    assert page.startswith("demo/chat\n  1 of 1 engines answer")
    assert "\nWARNING QueueTooLong\n  p95 TTFT" in page
    assert "\n  cure: maxNumSeqs binds and ITL has room: raise spec.engine.limits.maxNumSeqs from 4 to 8" in page
    assert page.endswith("Last warnings\n  2026-01-01T00:00:00Z  Unschedulable: no room\n")
    body = json.loads(diagnose.as_json(NAME, found, []))
    assert (body["fleet"], body["healthy"], body["findings"][0]["name"]) == ("demo/chat", False, "QueueTooLong")
    assert "Nothing found" in diagnose.text(NAME, conclude(facts(*IDLE)), [])


@pytest.mark.parametrize("seconds", [0, 601])
def test_time_to_look_has_bounds(seconds: int) -> None:
    with pytest.raises(CliError, match="--seconds must lie in 1 to 600"):
        diagnose.command(Namespace(seconds=seconds))
