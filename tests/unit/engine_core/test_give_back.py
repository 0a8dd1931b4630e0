"""Batch work that has not begun goes to another engine, and comes from one."""

from simulated_steps import Simulation

from headway_engine.core.limits import Limits
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams

BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def names(*numbers: int) -> frozenset[RequestId]:
    return frozenset(RequestId(f"b{number}") for number in numbers)


def given(bench: Simulation, wanted: frozenset[RequestId], most: int = 99) -> list[str]:
    events = bench.scheduler.give_back(wanted, most, bench.now)
    assert all(event.finished and event.finished.reason is FinishReason.GIVEN_BACK for event in events)
    assert not any(event.token_ids for event in events)
    return [str(event.request_id) for event in events]


def heap(slots: int = 2, count: int = 6) -> Simulation:
    """`slots` of the requests run."""
    bench = Simulation(Limits(slots, 4096, 0, 1000))
    for number in range(count):
        bench.add(f"b{number}", 10, 5, BATCH)
    bench.step()
    return bench


def test_those_that_wait_are_given_back_in_order_of_service_and_at_most_so_many() -> None:
    bench = heap()
    assert given(bench, names(5, 4, 3, 2), most=2) == ["b2", "b3"]
    assert bench.scheduler.num_waiting == bench.scheduler.num_waiting_batch == 2
    bench.run_until(lambda: sum(stream.done for stream in bench.streams.values()) == 4)
    assert bench.scheduler.next_due(bench.now) is None


def test_what_runs_is_unknown_or_not_named_stays() -> None:
    bench = heap()
    assert given(bench, names(0, 1, 77)) == []
    assert given(bench, names(5)) == ["b5"]
    assert bench.scheduler.num_waiting == 3


def test_work_of_better_classes_stays() -> None:
    bench = heap(slots=1, count=1)
    bench.add("b1", 10, 5, INTERACTIVE)
    bench.run_until(lambda: bench.scheduler.num_running == 1)
    assert given(bench, names(0, 1)) == []


def test_what_has_begun_stays_also_when_it_lost_its_slot() -> None:
    bench = heap(slots=1, count=1)
    bench.add("chat", 10, 50, INTERACTIVE)
    bench.step()
    assert [str(one.request.request_id) for one in bench.scheduler.waiting()] == ["b0"]
    assert given(bench, names(0)) == []


def test_what_is_given_back_is_counted_apart_and_never_as_finished_or_late() -> None:
    bench = heap()
    bench.scheduler.limits = Limits(2, 4096, 0, 1000, batch_deadline_ms=1)
    bench.now += 10.0
    given(bench, names(2, 3, 4, 5))
    batch = bench.scheduler.metrics.snapshot().classes[BATCH]
    assert (batch.moved, batch.finished, batch.late, bench.scheduler.metrics.snapshot().e2e.count) == (-4, 0, 0, 0)
    assert bench.scheduler.backlog.tokens == 0


def test_one_that_comes_from_another_engine_is_served_by_the_time_of_its_first_arrival() -> None:
    bench = heap(slots=1, count=2)
    bench.now += 5.0
    old = Request(
        RequestId("old"), -3.0, prompt_ids=(1,), sampling=SamplingParams(max_tokens=1), priority=BATCH, moved=True
    )
    bench.scheduler.add(old, seed=0)
    assert [str(one.request.request_id) for one in bench.scheduler.waiting()] == ["old", "b1"]
