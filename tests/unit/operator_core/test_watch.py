"""Symptoms over time: they begin at once, end after a minute of quiet, never flap, and cost few writes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from fleet_world import World, spec
from hypothesis import given
from hypothesis import strategies as st
from symptom_windows import QUEUED, evidence
from toy_traffic import Traffic

from headway_operator.api.conditions import Reason
from headway_operator.api.v1alpha1 import SymptomStatus
from headway_operator.core.plan import Emit, LimitsPatch, SetLimits
from headway_operator.core.symptoms import Severity, Symptom, symptoms
from headway_operator.core.watch import CLEAR_S, STEADY_S, follow
from headway_planner.model import Latency

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PASS_S = 2
QUEUE = Symptom(Reason.QUEUE_TOO_LONG, Severity.WARNING, "waits", "raise it")
FULL = Symptom(Reason.QUEUE_FULL, Severity.CRITICAL, "refused", "more replicas")
SLO = {"workloadClass": "interactive", "windowSeconds": 30, "interTokenLatency": {"targetMilliseconds": 200}}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def followed(held: Sequence[bool]) -> list[tuple[SymptomStatus, ...]]:
    """The status after each pass; a pass every two seconds, in which the rule holds or not."""
    states: list[tuple[SymptomStatus, ...]] = []
    for number, holds in enumerate(held):
        before = states[-1] if states else ()
        states.append(follow(before, (QUEUE,) if holds else (), at(PASS_S * number), refresh=False))
    return states


def test_a_symptom_begins_at_once_and_ends_after_a_minute_of_quiet() -> None:
    states = followed([True] + [False] * 40)
    lasted = [number * PASS_S for number, state in enumerate(states) if state]
    assert lasted[0] == 0
    assert lasted[-1] == PASS_S + CLEAR_S - PASS_S, "quiet from the second pass on"
    assert states[-1] == ()


def test_the_worst_comes_first_and_words_are_renewed_with_the_measurements_only() -> None:
    first = follow((), (QUEUE, FULL), NOON, refresh=False)
    assert [one.name for one in first] == ["QueueFull", "QueueTooLong"]
    changed = replace(QUEUE, words="waits longer")
    assert follow(first, (changed, FULL), at(2), refresh=False) == first
    renewed = follow(first, (changed, FULL), at(2), refresh=True)[1]
    assert (renewed.message, renewed.since) == ("waits longer", NOON)


@given(st.lists(st.booleans(), min_size=1, max_size=150))
def test_whatever_a_rule_does_its_symptom_does_not_flap(held: list[bool]) -> None:
    states = followed(held)
    shown = [bool(state) for state in states]
    assert all(is_shown for is_shown, holds in zip(shown, held, strict=True) if holds)
    ended = [number for number in range(1, len(shown)) if shown[number - 1] and not shown[number]]
    for number in ended:
        quiet = held[max(0, number - int((CLEAR_S - STEADY_S) / PASS_S)) : number]
        assert not any(quiet), "it ended although it had shown within the minute"
    begun = {state[0].since for state in states if state}
    assert len(begun) <= 1 + len(ended), "one episode has one beginning"
    writes = sum(one != other for one, other in pairwise(states))
    assert writes <= 2 + 2 * PASS_S * len(held) / (STEADY_S + PASS_S)


@given(st.lists(st.floats(0.92, 1.08), min_size=1, max_size=60))
def test_a_latency_that_wavers_about_its_target_raises_once_and_stays(shares: list[float]) -> None:
    states: list[tuple[SymptomStatus, ...]] = [()]
    for number, share in enumerate(shares):
        reported = {Reason(one.name) for one in states[-1]}
        window = evidence(**{**QUEUED, "waiting": 0.5, "ttft": Latency(share * 1500.0, 900.0, 118)})
        states.append(follow(states[-1], symptoms(window, reported), at(PASS_S * number), refresh=True))
    names = [tuple(one.name for one in state) for state in states]
    assert sum(one != other for one, other in pairwise(names)) <= 1


def events(world: World) -> list[str]:
    return [action.event_reason for action in world.writes if isinstance(action, Emit)]


def test_no_queue_is_told_while_the_last_change_of_the_limits_is_a_raise_within_its_cooldown() -> None:
    world = World(spec(slo=SLO, replicas=1, tuning={"mode": "Auto", "cooldownSeconds": 20}))
    traffic = Traffic(world)
    while "QueueTooLong" not in events(world):
        traffic.rate = 6 if world.now_s >= 10 else 0
        traffic.second()
    changes = [(datetime.fromisoformat(one["time"]), one) for one in world.status["tuning"]["history"]]
    raises = [when for when, one in changes if one["to"]["maxNumSeqs"] > one["from"]["maxNumSeqs"]]
    assert raises
    assert raises[0] != changes[0][0] or (world.now - raises[0]).total_seconds() >= 20


def test_a_fleet_under_load_says_what_is_wrong_and_a_minute_after_it_that_it_is_over() -> None:
    world = World(spec(slo=SLO, replicas=1))
    traffic = Traffic(world)
    for second in range(70):
        traffic.rate = 3 if second >= 10 else 0
        traffic.second()
    condition = world.condition("Healthy")
    assert (condition["status"], condition["reason"]) == ("False", "QueueTooLong")
    assert "Cure: maxNumSeqs binds and ITL has room: raise spec.engine.limits.maxNumSeqs from 4" in condition["message"]
    assert [one["name"] for one in world.status["symptoms"]] == ["QueueTooLong"]
    traffic.rate = 0
    for _ in range(180):
        traffic.second()
    assert (world.condition("Healthy")["status"], world.status["symptoms"]) == ("True", [])
    assert [word for word in events(world) if word in ("QueueTooLong", "SymptomEnded")] == [
        "QueueTooLong",
        "SymptomEnded",
    ]


def rival(world: World, seconds: int) -> list[SetLimits]:
    """Somebody else sets the limits of the only engine whenever they are not theirs; returns what the operator wrote."""
    (engine,) = world.engines.values()
    began = len(world.writes)
    for _ in range(seconds):
        foreign = LimitsPatch(13, 99, 0, 256)
        if engine.effective != foreign:
            engine.effective, engine.revision = foreign, engine.revision + 1
        world.step()
    return [action for action in world.writes[began:] if isinstance(action, SetLimits)]


def test_one_foreign_write_is_put_right_and_a_rival_is_reported_and_left_alone() -> None:
    world = World(spec(replicas=1))
    world.settle()
    assert [call.limits.max_num_seqs for call in rival(world, 1)] == [4], "a slip is drift like any other"
    assert world.condition("Healthy")["reason"] == "RivalWriter"
    assert len(rival(world, 300)) <= 2 + 300 / 45, "at most one try in the time that a write is remembered"
    assert events(world).count("RivalWriter") == 1
    for _ in range(150):
        world.step()
    (engine,) = world.engines.values()
    assert engine.effective.max_num_seqs == 4, "once the rival is gone the spec holds again"
    assert world.condition("Healthy")["status"] == "True"
