"""Batch work beside better classes, on a simulated clock: it takes what they leave, and no more."""

from dataclasses import replace

import pytest
from simulated_steps import FLOOR_MS, PROMPT_TOKEN_MS, Simulation

from headway_engine.core.limits import Bounds, Envelope, Limits, Profile, check
from headway_engine.core.request import Priority, Rejected

BATCH, INTERACTIVE, REALTIME = Priority.BATCH, Priority.INTERACTIVE, Priority.REALTIME
SLOTS = Bounds(1, 9999)
POOLED = Limits(8, 4096, 0, 1000, itl_target_ms=10, reserved_percent=25)


def running_batch(bench: Simulation) -> int:
    return sum(one.workload_class is BATCH for one in bench.scheduler.running())


@pytest.mark.parametrize(("percent", "most"), [(0, 8), (25, 6), (90, 1)])
def test_slots_stay_free_for_better_classes(percent: int, most: int) -> None:
    bench = Simulation(replace(POOLED, reserved_percent=percent))
    for number in range(20):
        bench.add(f"b{number}", 50, 20, BATCH)
    seen = set()
    while bench.scheduler.num_running or bench.scheduler.num_waiting:
        bench.step()
        seen.add(bench.scheduler.num_running)
    assert max(seen) == most
    assert bench.scheduler.metrics.preemptions == 0


def test_blocks_stay_free_for_better_classes() -> None:
    bench = Simulation(replace(POOLED, max_num_seqs=64, reserved_percent=50), blocks=100)
    for number in range(20):
        bench.add(f"b{number}", 150, 8, BATCH)
    least = 100
    while bench.scheduler.num_running > 1 or bench.scheduler.num_waiting:
        bench.step()
        least = min(least, bench.scheduler.pool.num_free)
    assert 50 <= least < 80


def test_a_better_request_starts_at_once_beside_a_heap_of_batch_work_and_preempts_nobody() -> None:
    bench = Simulation(POOLED)
    for number in range(50):
        bench.add(f"b{number}", 50, 100, BATCH)
    for _ in range(5):
        bench.step()
    first, second = bench.add("voice", 20, 5, REALTIME), bench.add("chat", 20, 5, INTERACTIVE)
    bench.run_until(lambda: first.done and second.done)
    assert max(first.ttft_ms, second.ttft_ms) < 2 * (FLOOR_MS + 1 + 70 * PROMPT_TOKEN_MS)
    assert bench.scheduler.metrics.preemptions == 0


@pytest.mark.parametrize("profile", Profile)
def test_batch_prompts_stretch_no_gap_of_a_better_stream_beyond_the_target(profile: Profile) -> None:
    bench = Simulation(replace(POOLED, profile=profile))
    stream = bench.add("chat", 20, 400, INTERACTIVE)
    heap = [(0.05 + 0.01 * n, lambda n=n: bench.add(f"b{n}", 3900, 5, BATCH)) for n in range(5)]
    bench.run(heap)
    assert stream.worst_gap_ms <= 10.01


def test_without_slack_a_batch_prompt_fills_the_step_of_a_better_stream() -> None:
    bench = Simulation(replace(POOLED, reserved_percent=0))
    stream = bench.add("chat", 20, 400, INTERACTIVE)
    bench.run([(0.05, lambda: bench.add("b", 3900, 5, BATCH))])
    assert stream.worst_gap_ms > 100


def test_batch_work_joins_streams_one_by_one_and_only_while_their_steps_have_room() -> None:
    bench = Simulation(replace(POOLED, max_num_seqs=64, itl_target_ms=5))  # 4 ms and 0.02 for each stream
    bench.add("chat", 20, 3000, INTERACTIVE)
    bench.run_until(lambda: len(bench.streams["chat"].token_times_s) > 3)
    for number in range(100):
        bench.add(f"b{number}", 1, 2000, BATCH)
    before = running_batch(bench)
    for _ in range(200):
        bench.step()
        assert running_batch(bench) - before <= 1
        before = running_batch(bench)
    assert 40 <= before <= 48  # 64 slots, a quarter of them kept free
    bench.scheduler.limits = replace(bench.scheduler.limits, itl_target_ms=4)
    bench.run_until(lambda: running_batch(bench) == 0)
    assert bench.scheduler.num_waiting > 0  # nobody joins steps that are too long already
    assert not bench.streams["chat"].done


def test_batch_work_keeps_to_the_target_of_the_streams_that_run_not_to_that_of_classes_that_do_not() -> None:
    def worst_gap_ms(kind: Priority, profile: Profile) -> float:
        own = {"interactive_itl_target_ms": 40, "batch_itl_target_ms": 5, "profile": profile}
        bench = Simulation(replace(POOLED, **own))
        stream = bench.add("stream", 20, 400, kind)
        bench.run([(0.05 + 0.01 * n, lambda n=n: bench.add(f"b{n}", 3900, 5, BATCH)) for n in range(5)])
        return stream.worst_gap_ms

    for profile in Profile:
        assert worst_gap_ms(REALTIME, profile) <= 10.01
    assert 30 < worst_gap_ms(INTERACTIVE, Profile.THROUGHPUT) <= 40.01
    assert worst_gap_ms(BATCH, Profile.THROUGHPUT) > 100, "nobody reads along, and a full step is cheapest"


def test_batch_work_joins_streams_whose_own_target_has_room() -> None:
    def joins(kind: Priority) -> bool:
        bench = Simulation(replace(POOLED, itl_target_ms=4, interactive_itl_target_ms=6))  # a step alone takes 4.02 ms
        bench.add("stream", 20, 100, kind)
        bench.run_until(lambda: len(bench.streams["stream"].token_times_s) > 3)
        batch = bench.add("b", 1, 2, BATCH)
        bench.run_until(lambda: bench.streams["stream"].done)
        return batch.done

    assert (joins(REALTIME), joins(INTERACTIVE)) == (False, True)


def test_batch_work_joins_batch_work_whatever_its_own_target() -> None:
    bench = Simulation(replace(POOLED, profile=Profile.LOW_TAIL, batch_itl_target_ms=1))
    for number in range(10):
        bench.add(f"b{number}", 50, 200, BATCH)
    bench.run_until(lambda: bench.scheduler.num_running == 6)
    assert bench.now < 0.1


def crowd(bench: Simulation, until_s: float) -> list[str]:
    """Realtime work that fills one slot for ever: a request of 5 tokens each 20 ms, which takes about 25 ms."""
    names: list[str] = []
    while bench.now < until_s:
        while len(names) * 0.02 <= bench.now:
            names.append(f"r{len(names)}")
            bench.add(names[-1], 20, 5, REALTIME)
        bench.step()
    return names


def test_a_heap_behind_better_work_is_served_one_at_a_time_after_a_bounded_wait() -> None:
    bench = Simulation(replace(POOLED, max_num_seqs=1))
    heap = [bench.add(f"b{number}", 50, 5, BATCH) for number in range(20)]
    crowd(bench, 45.0)
    served = [stream for stream in heap if stream.done]
    assert 10_000 < served[0].ttft_ms < 21_000
    assert 2 <= len(served) < 10
    starts = [stream.token_times_s[0] for stream in served]
    ends = [stream.token_times_s[-1] for stream in served]
    assert all(start > end for start, end in zip(starts[1:], ends, strict=False))


def test_a_heap_that_has_waited_long_does_not_stand_before_better_classes() -> None:
    bench = Simulation(replace(POOLED, max_num_seqs=4))
    for number in range(500):
        bench.add(f"b{number}", 50, 500, BATCH)
    bench.run_until(lambda: bench.now > 30)
    chat = bench.add("chat", 20, 5, INTERACTIVE)
    bench.run_until(lambda: chat.done)
    assert chat.ttft_ms < 2 * (FLOOR_MS + 1 + 150 * PROMPT_TOKEN_MS)


def test_a_request_without_a_class_gets_the_default_one_of_its_arrival() -> None:
    bench = Simulation(replace(POOLED, default_class=BATCH))
    bench.add("old", 20, 5, None)
    bench.scheduler.limits = replace(bench.scheduler.limits, default_class=REALTIME)
    bench.add("new", 20, 5, None)
    assert [one.workload_class for one in bench.scheduler.waiting()] == [REALTIME, BATCH]
    bench.run()
    classes = bench.scheduler.metrics.snapshot().classes
    assert [classes[kind].finished for kind in Priority] == [1, 0, 1]
    assert [classes[kind].ttft.count for kind in Priority] == [1, 0, 1]
    assert [classes[kind].itl.count for kind in Priority] == [4, 0, 4]


def test_classes_are_counted_by_the_requests_own_class_also_when_it_moved_up() -> None:
    bench = Simulation(Limits(1, 256, 0, 1000))
    bench.add("batch", 50, 5, BATCH)
    crowd(bench, 25.0)
    assert bench.scheduler.metrics.snapshot().classes[BATCH].finished == 1
    assert bench.scheduler.metrics.snapshot().classes[INTERACTIVE].finished == 0


def test_batch_requests_that_moved_up_still_count_as_batch_among_those_that_wait() -> None:
    bench = Simulation(Limits(1, 256, 0, 1000))
    for number in range(5):
        bench.add(f"b{number}", 20, 5, BATCH)
    bench.add("chat", 20, 5, INTERACTIVE)
    bench.scheduler.schedule(0.0)
    assert bench.scheduler.num_waiting_batch == 5
    bench.scheduler._waiting.age(25.0)
    assert {one.priority for one in bench.scheduler.waiting()} == {INTERACTIVE}
    assert bench.scheduler.num_waiting_batch == 5


@pytest.mark.parametrize(("deadline_ms", "late"), [(0, 0), (1, 2), (60_000, 0)])
def test_batch_work_that_ends_after_its_deadline_is_counted_and_nothing_else_is(deadline_ms: int, late: int) -> None:
    bench = Simulation(replace(POOLED, batch_deadline_ms=deadline_ms))
    for number in range(2):
        bench.add(f"b{number}", 50, 5, BATCH)
    bench.add("chat", 50, 5, INTERACTIVE)
    bench.run()
    classes = bench.scheduler.metrics.snapshot().classes
    assert [classes[kind].late for kind in Priority] == [0, 0, late]


def test_the_share_is_bounded() -> None:
    envelope = Envelope(SLOTS, SLOTS, SLOTS, SLOTS, Bounds(0, 0))
    assert check(replace(POOLED, reserved_percent=90, batch_wait_ms=1), envelope) is None
    refused = check(replace(POOLED, reserved_percent=91, batch_wait_ms=1), envelope)
    assert isinstance(refused, Rejected)
    assert refused.message == "limits.reserved_percent is 91, the envelope allows 0 to 90"
