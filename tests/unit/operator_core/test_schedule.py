"""Windows of spec.schedules: what they change, when they end, what is refused. The world begins at 2026-01-01 00:00 UTC."""

from datetime import UTC, datetime
from typing import Any

import pytest
from fleet_world import World, spec

from headway_operator.api.v1alpha1 import LLMDeploymentSpec, Schedule
from headway_operator.core.plan import Emit
from headway_operator.core.schedule import effective

NIGHT = {"name": "night", "cron": "0 1 * * *", "durationSeconds": 3600}


def world(*schedules: dict[str, Any], **overrides: object) -> World:
    one = World(spec(schedules=list(schedules), **overrides))
    one.settle()
    return one


def at(one: World, seconds: float) -> World:
    one.tick(seconds - one.now_s)
    one.settle()
    return one


def seqs(one: World) -> int:
    return int(one.status["tuning"]["effective"]["maxNumSeqs"])


def events(one: World) -> list[str]:
    return [action.event_reason for action in one.writes if isinstance(action, Emit)]


def test_limits_follow_the_window_and_come_back_without_a_new_pod() -> None:
    one = world({**NIGHT, "limits": {"maxNumSeqs": 16}}, replicas=1)
    pods = one.ready()
    assert one.status["schedule"] == {"active": [], "setAside": [], "nextChangeTime": "2026-01-01T01:00:00Z"}
    assert seqs(at(one, 3600)) == 16
    (engine,) = one.engines.values()
    assert engine.effective.max_num_seqs == 16
    assert one.status["schedule"]["active"] == [
        {
            "name": "night",
            "since": "2026-01-01T01:00:00Z",
            "until": "2026-01-01T02:00:00Z",
            "overrides": ["limits.maxNumSeqs 16"],
        }
    ]
    assert seqs(at(one, 7200)) == 4
    assert one.ready() == pods
    assert [word for word in events(one) if word.startswith("Schedule")] == ["ScheduleBegan", "ScheduleEnded"]


def test_a_window_of_a_whole_day_begins_anew_when_a_clock_change_makes_the_day_shorter() -> None:
    allday = Schedule(name="all", cron="0 0 * * *", time_zone="Europe/Berlin", duration_seconds=86_400)
    fleet = LLMDeploymentSpec.model_validate(spec()).model_copy(update={"schedules": (allday,)})
    status = effective(fleet, datetime(2026, 3, 29, 12, tzinfo=UTC)).status  # a Sunday of 23 hours
    assert status is not None
    assert [one.since for one in status.active] == [datetime(2026, 3, 28, 23, tzinfo=UTC)]
    assert status.next_change_time == datetime(2026, 3, 29, 22, tzinfo=UTC)


def test_replicas_follow_the_window_and_return() -> None:
    one = world({**NIGHT, "replicas": 3}, replicas=1)
    assert len(at(one, 3600).ready()) == 3
    assert len(at(one, 7200).ready()) == 1


def test_the_next_pass_comes_no_later_than_the_next_change() -> None:
    one = world(NIGHT, replicas=1)
    one.tick(3590 - one.now_s)
    assert one.run().requeue_s == 10


def test_of_overlapping_windows_the_later_in_the_list_wins_for_each_field() -> None:
    first = {**NIGHT, "limits": {"maxNumSeqs": 8, "maxQueuedRequests": 99}}
    one = at(world(first, {**NIGHT, "name": "late", "limits": {"maxNumSeqs": 12}}, replicas=1), 3700)
    effective = one.status["tuning"]["effective"]
    assert (effective["maxNumSeqs"], effective["maxQueuedRequests"]) == (12, 99)


def test_a_window_gives_batch_work_all_that_better_classes_leave() -> None:
    one = world({**NIGHT, "limits": {"reservedPercent": 0, "maxQueuedBatchRequests": 900}}, replicas=1)
    effective = at(one, 3700).status["tuning"]["effective"]
    assert (effective["reservedPercent"], effective["maxQueuedBatchRequests"]) == (0, 900)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 0 30 2 *"}, "spec.schedules[night].cron: never fires"),
        ({"cron": "0 0 * * 9"}, "spec.schedules[night].cron: day of week '9' must lie in 0 to 7"),
        ({"timeZone": "Mars/Base"}, "spec.schedules[night].timeZone: is no time zone known here"),
        ({"durationSeconds": 86401}, "spec.schedules[night].durationSeconds: must be at most the 86400 s"),
        (
            {"limits": {"maxQueuedBatchRequests": 1025}},
            "limits.maxQueuedBatchRequests: cannot exceed engine.capacity.maxQueuedRequests (1024), is 1025",
        ),
        ({"limits": {"maxNumSeqs": 17}}, "limits.maxNumSeqs: cannot exceed engine.capacity.maxNumSeqs (16), is 17"),
        ({"scaling": {"minReplicas": 5, "maxReplicas": 4}}, "minReplicas 5 cannot exceed maxReplicas 4"),
        (
            {"limits": {"maxNumBatchedTokens": 2}},
            "spec.schedules[night].limits.maxNumBatchedTokens: must be at least maxNumSeqs (4), is 2",
        ),
        ({"replicas": 2}, "spec.schedules[night].replicas: needs scaling.mode Off or Advisory"),
    ],
)
def test_what_cannot_hold_is_refused_with_field_and_reason(change: dict[str, Any], words: str) -> None:
    one = World(spec(schedules=[{**NIGHT, **change}]))
    one.run()
    assert one.condition("Accepted")["status"] == "False"
    assert words in one.condition("Accepted")["message"]


CALM = {**NIGHT, "name": "calm", "durationSeconds": 1800, "scaling": {"maxReplicas": 2}, "limits": {"maxNumSeqs": 9}}


def test_of_two_windows_that_contradict_the_later_is_set_aside_whole_and_the_fleet_goes_on() -> None:
    first = {**NIGHT, "scaling": {"minReplicas": 5}, "limits": {"maxNumSeqs": 16}}
    other = {**NIGHT, "name": "other", "limits": {"maxQueuedRequests": 99}}
    one = world(first, CALM, other, replicas=1)
    one.tick(3600 - one.now_s)
    one.settle()
    assert one.condition("Accepted")["status"] == "True"
    effective = one.status["tuning"]["effective"]
    assert (effective["maxNumSeqs"], effective["maxQueuedRequests"]) == (16, 99), "the others hold"
    assert [window["name"] for window in one.status["schedule"]["active"]] == ["night", "other"]
    (aside,) = one.status["schedule"]["setAside"]
    why = "with window night open, spec.schedules[calm].scaling: minReplicas 5 cannot exceed maxReplicas 2"
    assert aside == {"name": "calm", "until": "2026-01-01T01:30:00Z", "message": why}
    assert one.condition("Healthy")["reason"] == "WindowSetAside"
    assert f"window calm is set aside until 2026-01-01T01:30:00Z: {why}" in one.condition("Healthy")["message"]
    assert events(one).count("WindowSetAside") == 1
    at(one, 3600 + 1900)
    assert (one.status["schedule"]["setAside"], seqs(one)) == ([], 16)


def test_a_window_that_is_set_aside_holds_once_its_opponent_has_ended() -> None:
    early = {**NIGHT, "durationSeconds": 900, "scaling": {"minReplicas": 5}}
    one = world(early, CALM, replicas=1)
    assert seqs(at(one, 3700)) == 4
    assert seqs(at(one, 3600 + 1000)) == 9
    assert [window["name"] for window in one.status["schedule"]["active"]] == ["calm"]


def test_a_contradiction_with_two_windows_together_names_both() -> None:
    seqs_up, tokens_down = {"limits": {"maxNumSeqs": 16}}, {"limits": {"maxNumBatchedTokens": 10}}
    one = at(world({**NIGHT, **seqs_up}, {**NIGHT, "name": "low", **tokens_down}, replicas=1), 3700)
    (aside,) = one.status["schedule"]["setAside"]
    assert (
        "with window night open, spec.schedules[low].limits.maxNumBatchedTokens: must be at least maxNumSeqs (16)"
        in (aside["message"])
    )


def test_reasons_and_events_name_the_window_and_what_it_sets() -> None:
    one = at(world({**NIGHT, "replicas": 3, "limits": {"maxNumSeqs": 16}}, replicas=1), 3700)
    assert one.status["tuning"]["reason"] == "mode Off: spec.engine.limits; window night sets limits.maxNumSeqs 16"
    assert one.status["scaling"]["reason"] == "mode Off: spec.replicas; window night sets replicas 3"
    at(one, 7300)
    assert one.status["tuning"]["reason"] == "mode Off: spec.engine.limits"
    told = [action.reason for action in one.writes if isinstance(action, Emit)]
    assert "window night is open until 2026-01-01T02:00:00Z: replicas 3, limits.maxNumSeqs 16 hold" in told
    assert "window night has ended: replicas 3, limits.maxNumSeqs 16 no longer hold" in told
    assert "1 -> 3 replicas: mode Off: spec.replicas; window night sets replicas 3" in told


def test_windows_open_and_close_while_a_later_spec_is_refused() -> None:
    one = at(world({**NIGHT, "limits": {"maxNumSeqs": 16}}, replicas=1), 3700)
    one.edit(engine={**spec()["engine"], "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 2}}, schedules=[])
    one.step()
    assert one.condition("Accepted")["status"] == "False"
    assert [window["name"] for window in one.status["schedule"]["active"]] == ["night"]
    at(one, 7300)
    assert one.status["tuning"]["effective"]["maxNumSeqs"] == 4
    assert "ScheduleEnded" in events(one)
