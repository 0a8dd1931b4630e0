"""Windows of spec.schedules: what they change, when they end, what is refused. The world begins at 2026-01-01 00:00 UTC."""

from typing import Any

import pytest
from fleet_world import World, spec

from headway_operator.core.decide import decide
from headway_operator.core.plan import Emit

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
    assert one.status["schedule"] == {"active": [], "nextChangeTime": "2026-01-01T01:00:00Z"}
    assert seqs(at(one, 3600)) == 16
    (engine,) = one.engines.values()
    assert engine.effective.max_num_seqs == 16
    assert one.status["schedule"]["active"] == [
        {"name": "night", "since": "2026-01-01T01:00:00Z", "until": "2026-01-01T02:00:00Z"}
    ]
    assert seqs(at(one, 7200)) == 4
    assert one.ready() == pods
    assert [word for word in events(one) if word.startswith("Schedule")] == ["ScheduleBegan", "ScheduleEnded"]


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 0 30 2 *"}, "spec.schedules[night].cron: never fires"),
        ({"cron": "0 0 * * 9"}, "spec.schedules[night].cron: day of week '9' must lie in 0 to 7"),
        ({"timeZone": "Mars/Base"}, "spec.schedules[night].timeZone: is no time zone known here"),
        ({"durationSeconds": 86401}, "spec.schedules[night].durationSeconds: must be at most the 86400 s"),
        ({"limits": {"maxNumSeqs": 17}}, "limits.maxNumSeqs: cannot exceed engine.capacity.maxNumSeqs (16), is 17"),
        ({"scaling": {"minReplicas": 5, "maxReplicas": 4}}, "minReplicas 5 cannot exceed maxReplicas 4"),
        (
            {"limits": {"maxNumBatchedTokens": 2}},
            "in spec.schedules[night]: spec.engine.limits.maxNumBatchedTokens (2)",
        ),
        ({"replicas": 2}, "spec.schedules[night].replicas: needs scaling.mode Off or Advisory"),
    ],
)
def test_what_cannot_hold_is_refused_with_field_and_reason(change: dict[str, Any], words: str) -> None:
    one = World(spec(schedules=[{**NIGHT, **change}]))
    one.run()
    assert one.condition("Accepted")["status"] == "False"
    assert words in one.condition("Accepted")["message"]


def test_windows_that_contradict_only_together_are_refused_while_both_are_open() -> None:
    low = {**NIGHT, "name": "low", "scaling": {"maxReplicas": 2}}
    one = world({**NIGHT, "scaling": {"minReplicas": 5}}, low, replicas=1)
    one.tick(3600 - one.now_s)
    assert not [action for action in decide(one.observe()).actions if type(action).__name__ == "SetLimits"]
    one.run()
    assert "scaling.minReplicas (5) cannot exceed scaling.maxReplicas (2)" in one.condition("Accepted")["message"]
    one.tick(3600)
    one.settle()
    assert one.condition("Accepted")["status"] == "True"
