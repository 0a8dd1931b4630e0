"""Batch work with a deadline: what came, what is here, and how old it is."""

import math
from dataclasses import replace
from typing import Any

import pytest
from engine_samples import buckets, sample
from hypothesis import given
from hypothesis import strategies as st

from headway_operator.core.ages import PARTS, by_age, marks_of
from headway_operator.core.deferred import take
from headway_operator.core.intake import Reports
from headway_operator.core.memory import Arrived
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.plan import LimitsPatch
from headway_planner.deferred import NEWEST, Backlog, Deferred, Lengths, noted


def engine(admitted: int, finished: int, waiting: int = 0, boot: str = "a") -> EngineSample:
    """An engine with requests of 100 prompt and 10 answer tokens."""
    batch = ClassSample(
        ttft=buckets(*[50.0] * finished),
        itl=buckets(*[20.0] * 9 * finished),
        admitted=admitted,
        finished=finished,
        prompt_tokens_admitted=100 * admitted,
        prompt_tokens=100 * (admitted - waiting),
    )
    return sample(admitted - finished - waiting, boot_id=boot, num_waiting_batch=waiting, classes={"batch": batch})


def seen(before: Arrived, **engines: EngineSample) -> tuple[Deferred, Arrived]:
    found, arrived = take(Reports(len(engines), engines), before)
    assert found is not None
    return found, arrived


def test_what_came_and_is_in_no_engine_is_finished() -> None:
    first, arrived = seen(Arrived(), a=engine(20, 5, 11))
    assert (first.arrivals, first.finished, first.running, first.waiting) == (15, 0, 4, 11)
    assert (first.queued_tokens, first.input_tokens) == (1100, 1500)
    later, _ = seen(arrived, a=engine(30, 12, 14))
    assert (later.arrivals, later.finished, later.running, later.waiting) == (25, 7, 4, 14)


def test_lengths_are_those_that_the_engines_counted() -> None:
    found, _ = seen(Arrived(), a=engine(40, 36, 0))
    mix = Backlog(found).mix
    assert mix is not None
    assert (mix.inputs, mix.outputs) == (100, pytest.approx(10, rel=0.1))


def counted(*done: tuple[int, int, int], running: int = 0, boot: str = "a") -> EngineSample:
    """An engine that has finished `done`: requests, tokens of a prompt, tokens of an answer; and just began with `running`."""
    finished = sum(count for count, _, _ in done)
    batch = ClassSample(
        itl=(sum(count * outputs for count, _, outputs in done),),
        admitted=finished + running,
        finished=finished,
        prompt_tokens_admitted=sum(count * inputs for count, inputs, _ in done),
    )
    return sample(running, boot_id=boot, classes={"batch": batch})


@given(
    old=st.integers(1, 10**6),
    lengths=st.tuples(st.integers(100, 1000), st.integers(100, 1000)),
    each=st.integers(1, 400),
)
def test_lengths_follow_after_some_hundred_requests_whatever_an_engine_did_before(
    old: int, lengths: tuple[int, int], each: int
) -> None:
    was, now = lengths
    found, arrived = seen(Arrived(), a=counted((old, was, was)))
    assert arrived.lengths.means == (was, was), "for want of anything newer"
    new = 0
    while new < 5 * NEWEST:
        new += each
        found, arrived = seen(arrived, a=counted((old, was, was), (new, now, now)))
    assert arrived.lengths.means == (pytest.approx(now, rel=0.1), pytest.approx(now, rel=0.1))
    assert found.input_tokens == pytest.approx(found.arrivals * arrived.lengths.means[0])


@pytest.mark.parametrize("slots", [4, 400])
def test_lengths_hold_while_the_slots_are_filled_at_once(slots: int) -> None:
    limits = LimitsPatch(max_num_seqs=slots)
    _, arrived = seen(Arrived(), a=replace(counted((1000, 100, 50)), effective=limits))
    _, after = seen(arrived, a=replace(counted((1000, 100, 50), running=slots), effective=limits))
    assert after.lengths.means[1] == pytest.approx(50, rel=0.26)


def test_what_an_engine_did_before_it_was_known_says_nothing_of_lengths() -> None:
    _, arrived = seen(Arrived(), a=counted((9, 100, 10)))
    _, arrived = seen(arrived, a=counted((9, 100, 10)), b=counted((10**6, 7, 7)))
    assert arrived.lengths.means == (100, 10)
    _, arrived = seen(arrived, a=counted((9, 100, 10)), b=counted((63, 400, 40), boot="new"))
    assert arrived.lengths.means == ((100 + 63 * 400) / 64, (10 + 63 * 40) / 64), "room for one of those before"


def test_the_first_look_believes_the_status_before_what_was_counted_since_boot() -> None:
    told = Arrived(lengths=Lengths(64.0, 6400.0, 64.0, 640.0))
    _, arrived = seen(told, a=counted((10**6, 7, 7)))
    assert arrived.lengths.means == (100, 10)


def test_a_pod_that_is_lost_takes_its_work_along_and_one_that_restarts_begins_anew() -> None:
    _, arrived = seen(Arrived(), a=engine(20, 5, 11), b=engine(10, 0, 6))
    gone, after = seen(arrived, a=engine(20, 5, 11))
    assert (gone.arrivals, gone.running + gone.waiting, gone.finished) == (25, 15, 10)
    again, _ = seen(after, a=engine(3, 1, 2, boot="b"))
    assert (again.arrivals, again.running + again.waiting, again.finished) == (27, 2, 25)


def test_an_engine_that_joins_adds_what_is_in_it_and_not_what_it_did_before() -> None:
    _, arrived = seen(Arrived(), a=engine(20, 5, 11))
    found, _ = seen(arrived, a=engine(20, 5, 11), b=engine(1000, 990, 6))
    assert (found.arrivals, found.finished) == (25, 0)


def moved(before: EngineSample, requests: int) -> EngineSample:
    """The engine after so many of its waiting requests came from another one, or (below 0) went to one."""
    batch = replace(before.batch, moved=before.batch.moved + requests)
    return replace(before, num_waiting_batch=before.num_waiting_batch + requests, classes={"batch": batch})


def test_requests_that_change_their_engine_came_once_and_keep_their_age() -> None:
    first, arrived = seen(Arrived(), a=engine(20, 5, 11))
    for new in (engine(0, 0), engine(3, 1, 2)):  # one that starts, and one that was there with work of its own
        _, known = seen(arrived, a=engine(20, 5, 11), b=new)
        here = new.batch.here
        for before in (arrived, known):
            found, _ = seen(before, a=moved(engine(20, 5, 11), -8), b=moved(new, 8))
            assert found.running + found.waiting == first.running + first.waiting + here
            assert found.arrivals == pytest.approx(first.arrivals + here, abs=1.0)
            assert found.finished == pytest.approx(first.finished, abs=1.0)


def test_lengths_are_those_of_requests_that_ended_wherever_they_came_first() -> None:
    before, _ = seen(Arrived(), a=engine(40, 36, 4), b=engine(0, 0))
    after, _ = seen(Arrived(), a=moved(engine(40, 36, 4), -4), b=moved(engine(0, 0), 4))
    assert Backlog(after).mix == Backlog(before).mix


def test_silent_engines_are_taken_to_be_like_those_that_answer() -> None:
    found, _ = take(Reports(4, {"a": engine(20, 5, 11), "b": engine(20, 5, 11)}), Arrived())
    assert found is not None
    assert (found.running, found.waiting, found.arrivals) == (16, 44, 60)


def test_work_in_an_engine_that_is_silent_for_a_while_is_neither_done_nor_new() -> None:
    """Else what has waited for most of its deadline would begin to wait when the engine answers again."""
    first, arrived = seen(Arrived(), a=engine(20, 5, 11), b=engine(10, 10))
    silent, arrived = take(Reports(2, {"b": engine(12, 11)}, silent=("a",)), arrived)
    assert silent is not None
    assert (silent.arrivals, silent.running, silent.waiting, silent.finished) == (17, 5, 11, 1)
    assert silent.queued_tokens == first.queued_tokens
    back, _ = seen(arrived, a=engine(22, 9, 10), b=engine(12, 12))
    assert (back.arrivals, back.finished, back.running + back.waiting) == (19, 6, 13)


def test_while_no_engine_answers_nothing_is_known_and_nothing_forgotten() -> None:
    _, arrived = seen(Arrived(), a=engine(20, 5, 11))
    assert take(Reports(1, {}), arrived) == (None, arrived)


def test_an_older_engine_that_does_not_count_what_it_admits_has_no_work_with_a_deadline() -> None:
    old = replace(engine(0, 0), classes={"batch": ClassSample(ttft=buckets(*[50.0] * 7), finished=7)})
    found, arrived = seen(Arrived(), a=old)
    again, _ = seen(arrived, a=old)
    assert (found.arrivals, again.arrivals, again.running) == (0, 0, 0)


def test_the_engine_s_own_count_of_prompt_tokens_is_believed_before_the_difference() -> None:
    found, _ = seen(Arrived(), a=replace(engine(20, 5, 11), waiting_batch_prompt_tokens=7))
    assert found.queued_tokens == 7


@given(
    came=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    done=st.floats(0, 1),
    gap_s=st.integers(0, 400),
)
def test_a_new_operator_knows_how_long_what_waits_has_waited(came: list[int], done: float, gap_s: int) -> None:
    """To a twentieth of the deadline, and to a request for each."""
    deadline_s, backlog, total = 600.0, Backlog(), 0
    for second, count in enumerate(came):
        total += count
        here = total - math.floor(done * total)
        found = Deferred(total, 100.0 * total, total - here, 10.0 * total, 0, here, 0)
        backlog = noted(backlog, found, 10.0 * second, deadline_s)
    now, at_s = backlog.now, 10.0 * (len(came) - 1)
    assert now is not None
    counts = by_age(backlog, deadline_s, at_s)
    assert sum(counts) == round(now.waiting)
    assert all(count >= 0 for count in counts)
    marks = marks_of(counts, deadline_s, at_s + 1000 - gap_s)
    assert len(marks) in (0, PARTS)
    for mark_s, older in marks:
        then_s = mark_s - (1000 - gap_s)
        truth = max((mark for time_s, mark in backlog.marks if time_s <= then_s + 1e-6), default=0.0) - now.finished
        assert older == pytest.approx(min(now.waiting, max(0.0, truth)), abs=0.5) or then_s >= at_s - 1e-6


LOOKS = st.lists(
    st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from("xy")),
        max_size=3,
    ),
    max_size=12,
)


@given(LOOKS)
def test_whatever_engines_come_go_and_restart_what_came_is_here_or_finished(looks: list[dict[str, Any]]) -> None:
    """`finished` and `here` make up `came`, which never falls."""
    arrived, came = Arrived(), 0.0
    for look in looks:
        engines = {
            name: engine(finished + running + waiting, finished, waiting, boot)
            for name, (finished, running, waiting, boot) in look.items()
        }
        found, arrived = take(Reports(len(engines), engines), arrived)
        if found is None:
            assert not engines
            continue
        here = sum(running + waiting for _, running, waiting, _ in look.values())
        assert found.running + found.waiting == here
        assert found.arrivals == found.finished + here >= came
        assert found.finished >= 0
        came = found.arrivals
