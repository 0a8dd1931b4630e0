"""The demand that replicas are ordered for, where batch work fills the slack of better classes."""

from dataclasses import replace
from typing import Any

import pytest
from engine_samples import buckets, sample
from hypothesis import given
from hypothesis import strategies as st

from headway_operator.api.v1alpha1 import Slo
from headway_operator.core.intake import Reports
from headway_operator.core.memory import LoopMemory
from headway_operator.core.objectives import ClassCounts, Verdict, judge
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.online import take_in
from headway_operator.core.work import EVERY, Work, all_work, batch_work

SLO = Slo.model_validate({"workloadClass": "interactive", "classes": [{"workloadClass": "batch"}]})

TARGETS_MS = {EVERY: 1500.0}
INVALID = 7  # requests that no engine could serve: of a class, but none of the demand


def engine(second: float, chats: int, batch: int, waiting_batch: int = 0, refused: int = 0) -> EngineSample:
    """An engine that has finished `chats` and `batch` requests of 100 prompt and 10 answer tokens each.

    It refused batch requests because its queue was full.
    """
    counts = dict.fromkeys(("interactive", "batch"), ClassSample())
    for kind, done, waiting in (("interactive", chats, 0), ("batch", batch, waiting_batch)):
        counts[kind] = ClassSample(
            ttft=buckets(*[50.0] * done),
            queue_wait=(),
            itl=buckets(*[20.0] * 9 * done),
            admitted=done + waiting,
            finished=done,
            prompt_tokens_admitted=100 * (done + waiting),
            prompt_tokens=100 * done,
            refused=refused if kind == "batch" else 0,
        )
    return sample(
        taken_s=second,
        num_waiting=waiting_batch,
        num_waiting_batch=waiting_batch,
        waiting_prompt_tokens=100 * waiting_batch,
        requests_received=chats + batch + waiting_batch + refused + INVALID,
        requests_rejected=refused + INVALID,
        queue_full=refused,
        requests_finished=chats + batch,
        prompt_tokens=100 * (chats + batch),
        generation_tokens=10 * (chats + batch),
        classes=counts,
        steps=10 * (chats + batch),
        step_sum_ms=200.0 * (chats + batch),
    )


def online(one: EngineSample) -> Work:
    """What the better classes did."""
    return all_work(one, TARGETS_MS) - batch_work(one, TARGETS_MS)


def alone(second: float, chats: int) -> EngineSample:
    """The same engine without batch work."""
    return replace(engine(second, chats, 0), classes={})


@given(chats=st.integers(0, 20), batch=st.integers(0, 20), waiting=st.integers(0, 50), refused=st.integers(0, 50))
def test_without_batch_an_engine_looks_as_if_none_had_come(chats: int, batch: int, waiting: int, refused: int) -> None:
    assert online(engine(5.0, chats, batch, waiting, refused)) == all_work(alone(5.0, chats), TARGETS_MS)


def test_an_engine_that_had_no_batch_work_or_does_not_tell_is_taken_as_it_is() -> None:
    one = alone(5.0, 3)
    assert online(one) == all_work(one, TARGETS_MS)


def test_running_batch_work_is_what_came_and_neither_ended_nor_waits() -> None:
    one = replace(engine(1.0, 0, 2, 3), num_running=4)
    assert one.running_batch == 0
    busy = replace(one, kv_usage=0.8, kv_tokens=1000, classes={"batch": replace(one.classes["batch"], admitted=7)})
    assert busy.running_batch == 2
    assert (online(busy).running, online(busy).kv_used) == (2, pytest.approx(400))


def totals(batch_ms: float, *series: EngineSample) -> Any:
    counts = {"interactive": ClassCounts(buckets(*[50.0] * 20)), "batch": ClassCounts(buckets(*[batch_ms] * 20))}
    memory, taken = LoopMemory(), None
    for one in series:
        taken = take_in(Reports(1, {"a": one}), memory, Verdict(judge(SLO, counts)))
        memory = LoopMemory(engines=taken.engines, online=taken.online, totals=taken.intake.totals)
    assert taken is not None
    return taken.intake


@pytest.mark.parametrize(("batch_ms", "expected"), [(900.0, 5), (90_000.0, 45)])
def test_batch_work_is_demand_only_when_it_misses_its_own_target(batch_ms: float, expected: int) -> None:
    seen = totals(batch_ms, engine(0.0, 0, 0), engine(10.0, 5, 20, 20))
    assert (seen.totals.arrivals, seen.totals.input_tokens) == (expected, 100 * expected)
    assert seen.totals.output_tokens == 10 * (5 if expected == 5 else 25)
    assert (seen.waiting, seen.queued_tokens) == ((0, 0) if expected == 5 else (20, 2000))


def test_batch_work_that_a_full_queue_refuses_again_and_again_is_no_demand() -> None:
    seen = totals(900.0, engine(0.0, 0, 0), engine(10.0, 5, 20, 20, refused=500))
    assert (seen.totals.arrivals, seen.totals.refused) == (5, 0)


def test_what_a_step_costs_is_learnt_from_all_work() -> None:
    (done,) = totals(900.0, engine(0.0, 0, 0), engine(10.0, 5, 20)).done
    assert (done.steps, done.output_tokens, done.busy_ms) == (250, 250, 5000.0)


def test_demand_does_not_jump_when_batch_work_comes_to_count() -> None:
    """What batch work was done before it counted is not booked later."""
    first = engine(10.0, 5, 20)
    late = {"interactive": ClassCounts(buckets(*[50.0] * 20)), "batch": ClassCounts(buckets(*[90_000.0] * 20))}
    fine = {**late, "batch": ClassCounts(buckets(*[900.0] * 20))}
    memory = LoopMemory()
    for one, counts in ((engine(0.0, 0, 0), fine), (first, fine), (engine(20.0, 6, 22), late)):
        taken = take_in(Reports(1, {"a": one}), memory, Verdict(judge(SLO, counts)))
        memory = LoopMemory(engines=taken.engines, online=taken.online, totals=taken.intake.totals)
    assert memory.totals.arrivals == 5 + 3


def test_a_fleet_without_batch_keeps_one_count() -> None:
    pair = Slo.model_validate({"workloadClass": "interactive", "classes": [{"workloadClass": "realtime"}]})
    taken = take_in(Reports(1, {"a": engine(1.0, 2, 3)}), LoopMemory(), Verdict(judge(pair, {})))
    assert taken.online == {}
    assert take_in(Reports(1, {"a": engine(1.0, 2, 3)}), LoopMemory(), Verdict()).online == {}


def test_batch_work_that_changes_its_engine_is_no_new_demand() -> None:
    """Ten requests wait in one engine; the other one takes eight of them over and finishes them."""

    def moved(one: EngineSample, requests: int) -> EngineSample:
        batch = one.classes["batch"]
        batch = replace(
            batch,
            admitted=batch.admitted - requests,
            prompt_tokens_admitted=batch.prompt_tokens_admitted - 100 * requests,
            moved=requests,
        )
        return replace(one, classes={**one.classes, "batch": batch})

    giver = engine(0.0, 0, 0, waiting_batch=10), moved(engine(10.0, 0, 0, waiting_batch=2), -8)
    giver = giver[0], replace(giver[1], requests_received=giver[0].requests_received)
    worked = engine(20.0, 0, 8)
    taker = engine(0.0, 0, 0), moved(engine(10.0, 0, 0, waiting_batch=8), 8), moved(worked, 8)
    taker = taker[0], *(replace(one, requests_received=INVALID) for one in taker[1:])
    looks = zip((*giver, replace(giver[1], taken_s=20.0)), taker, strict=True)
    memory = LoopMemory()
    for old, new in looks:
        taken = take_in(Reports(2, {"a": old, "b": new}), memory, Verdict())
        memory = LoopMemory(engines=taken.engines, totals=taken.intake.totals)
    assert (memory.totals.arrivals, memory.totals.input_tokens) == (0, 0)
    assert (memory.totals.finished, memory.totals.output_tokens) == (8, 80)


def test_prompts_that_were_given_up_in_the_queue_do_not_hide_those_that_come_after() -> None:
    """Ten clients lose patience while they wait; ten others come, and are served."""

    def look(second: float, came: int, ended: int, begun: int, waiting: int) -> EngineSample:
        counts = ClassSample(
            admitted=came, finished=ended, prompt_tokens_admitted=100 * came, prompt_tokens=100 * begun
        )
        return sample(
            taken_s=second,
            num_waiting=waiting,
            waiting_prompt_tokens=100 * waiting,
            requests_received=came,
            requests_finished=ended,
            prompt_tokens=100 * begun,
            classes={"interactive": counts},
        )

    memory = LoopMemory()
    for one in (look(0, 0, 0, 0, 0), look(2, 10, 0, 0, 10), look(4, 10, 10, 0, 0), look(6, 20, 20, 10, 0)):
        taken = take_in(Reports(1, {"a": one}), memory, Verdict())
        memory = replace(memory, engines=taken.engines, totals=taken.intake.totals)
    assert (memory.totals.arrivals, memory.totals.input_tokens) == (20, 2000)


def test_what_came_while_nobody_answered_is_demand_when_the_engine_does_again() -> None:
    memory = LoopMemory()
    for found in (sample(taken_s=1.0), None, None, sample(taken_s=31.0, requests_received=60)):
        taken = take_in(Reports(1, {} if found is None else {"a": found}), memory, Verdict())
        memory = replace(memory, engines=taken.engines, totals=taken.intake.totals)
    assert memory.totals.arrivals == 60


@pytest.mark.parametrize(("serving", "stale"), [(1, False), (2, False), (3, True)])
def test_what_fewer_than_half_of_the_engines_counted_is_no_demand(serving: int, stale: bool) -> None:
    verdict = Verdict(None)
    before = take_in(Reports(serving, {"a": engine(0.0, 0, 0)}, TARGETS_MS), LoopMemory(), verdict)
    memory = LoopMemory(engines=before.engines)
    taken = take_in(Reports(serving, {"a": engine(1.0, 9, 0)}, TARGETS_MS), memory, verdict).intake
    assert (taken.stale, taken.totals.arrivals) == (stale, 0.0 if stale else 9.0 * serving)
