"""A pod leaves without cutting a stream, and never waits for ever."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import fleet_world
import pytest
from engine_samples import sample
from fleet_world import World, spec

from headway_operator.api.v1alpha1 import Drain
from headway_operator.core import clock, drain, names, pods
from headway_operator.core.observed import EngineSample, PodView
from headway_operator.core.plan import Action, DeletePod, MarkDraining, StartDrain
from headway_operator.core.rollout import Retire

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
RULES = Drain(timeout_seconds=60, endpoint_removal_delay_seconds=5)


def only(actions: tuple[Action, ...]) -> Action:
    (action,) = actions
    return action


def advance(
    draining: PodView,
    said: EngineSample | None,
    memory: Mapping[datetime, float] = MappingProxyType({}),
    now: datetime = NOW,
) -> tuple[Action, ...]:
    """One pass, at 500 s of the monotonic clock; `memory`: when drains that the pass before saw began on it."""
    placed = clock.placed(drain.stamps([draining], memory, now), memory, now, 500.0, None)
    return drain.advance(draining, said, RULES, drain.elapsed_s(draining, placed, 500.0), now)


def pod(elapsed_s: float = 0.0, ready: bool = True, started: str | None = None) -> PodView:
    moment = started if started is not None else drain.rfc3339(NOW - timedelta(seconds=elapsed_s))
    return PodView(
        name="p",
        uid="u",
        labels={},
        annotations={names.ANNOTATION_DRAIN_STARTED: moment, names.ANNOTATION_DRAIN_REASON: "2 replicas, 1 desired"},
        phase="Running",
        ready=ready,
        ip="10.0.0.1",
        node="n",
        created=NOW - timedelta(hours=1),
        deleting=False,
    )


def test_first_step_marks_a_serving_pod_and_deletes_one_that_serves_nobody():
    serving, broken = pod(), pod(ready=False)
    actions = drain.start((Retire(serving, "a", at_once=False), Retire(broken, "b", at_once=True)), NOW)
    assert actions == (MarkDraining("p", "u", "2026-01-01T01:00:00Z", "a"), DeletePod("p", "u", "b"))


def test_a_pod_that_has_ended_is_not_waited_for_whatever_it_said_last():
    ended = replace(pod(5, ready=False), phase="Failed")
    said_last = pods.fresh_samples({"p": (sample(2),)}, [ended], now_s=1.0)
    assert said_last == {}
    assert isinstance(only(advance(ended, said_last.get("p"))), DeletePod)
    assert pods.fresh_samples({"p": (sample(2),)}, [pod(5)], now_s=1.0) == {"p": sample(2)}


def test_admission_goes_on_until_the_endpoint_is_gone():
    assert advance(pod(4), sample(2)) == ()


def test_admission_stops_after_the_endpoint_removal_delay():
    action = only(advance(pod(5), sample(2)))
    assert action == StartDrain("p", 60, "2 replicas, 1 desired; admission stops")


def test_even_an_idle_engine_stops_admission_before_it_goes():
    assert isinstance(only(advance(pod(5), sample(0))), StartDrain)


def test_streams_in_flight_are_waited_for():
    assert advance(pod(30, ready=False), sample(2, draining=True)) == ()


def test_drained_pod_is_deleted_at_once():
    action = only(advance(pod(12, ready=False), sample(0, draining=True)))
    assert isinstance(action, DeletePod)
    assert action.grace_s is None


def test_deadline_ends_the_wait_with_a_short_grace_and_says_what_was_left():
    action = only(advance(pod(65), sample(2, draining=True)))
    assert isinstance(action, DeletePod)
    assert action.grace_s == drain.DEADLINE_GRACE_S
    assert action.reason == "2 replicas, 1 desired; drain timeout of 60 s passed, 2 streams are left"


def test_silent_ready_pod_is_waited_for_until_the_deadline():
    assert advance(pod(30), None) == ()
    assert isinstance(only(advance(pod(65), None)), DeletePod)


def test_silent_pod_that_is_not_ready_has_nothing_to_wait_for():
    assert isinstance(only(advance(pod(1, ready=False), None)), DeletePod)


@pytest.mark.parametrize("started", ["", "yesterday", "2026-01-01T00:59:00", "2027-01-01T00:00:00Z"])
def test_broken_drain_annotation_is_written_anew(started: str):
    action = only(advance(pod(started=started), sample(2)))
    assert action == MarkDraining("p", "u", "2026-01-01T01:00:00Z", "2 replicas, 1 desired")


def test_a_draining_pod_that_somebody_put_back_into_the_endpoints_leaves_them_again_and_keeps_its_deadline():
    back = replace(pod(7), labels={names.LABEL_SERVING: "true"})
    began = drain.rfc3339(NOW - timedelta(seconds=7))
    mark, stop = advance(back, sample(2))
    assert mark == MarkDraining("p", "u", began, "2 replicas, 1 desired")
    assert isinstance(stop, StartDrain)


def test_somebody_who_puts_a_draining_pod_back_all_the_time_does_not_stall_its_drain():
    back = replace(pod(65), labels={names.LABEL_SERVING: "true"})
    assert isinstance(only(advance(back, sample(2, draining=True))), DeletePod)


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_wall_clock_that_jumps_neither_cuts_nor_prolongs_a_drain(jump: timedelta):
    streaming, late = sample(2, draining=True), NOW + jump
    began = NOW - timedelta(seconds=30)
    assert advance(pod(30), streaming, {began: 470.0}, late) == ()
    ended = only(advance(pod(30), streaming, {began: 435.0}, late))
    assert isinstance(ended, DeletePod)
    assert ended.grace_s == drain.DEADLINE_GRACE_S


def test_a_fleet_drains_through_a_jump_of_the_clock_also_when_it_is_deleted(monkeypatch: pytest.MonkeyPatch):
    for deleted in (False, True):
        world = World(spec(replicas=1, drain={"timeoutSeconds": 60, "endpointRemovalDelaySeconds": 5}))
        world.settle()
        (engine,) = world.engines.values()
        engine.running = 1
        if deleted:
            world.delete()
        else:
            world.edit(replicas=0)
        for _ in range(20):
            world.step()
        with monkeypatch.context() as patched:
            patched.setattr(fleet_world, "START", fleet_world.START + timedelta(hours=2))
            for _ in range(40):
                world.step()
            assert list(world.engines.values()) == [engine], "no stream is cut before the deadline"
            for _ in range(10):
                world.step()
        assert not world.ready()
        assert any(isinstance(one, DeletePod) and "drain timeout of 60 s passed" in one.reason for one in world.writes)
