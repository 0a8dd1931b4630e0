"""In an overload those go first whose first tokens can still be in time, and the late ones in turn."""

from collections.abc import Callable
from dataclasses import replace

from simulated_steps import Simulation

from headway_engine.core.limits import Limits
from headway_engine.core.request import FinishReason, Priority, RequestId
from headway_engine.core.waiting import AGEING_S, LATE_TURN, PATIENCE

BATCH, INTERACTIVE, REALTIME = Priority.BATCH, Priority.INTERACTIVE, Priority.REALTIME
TARGET_MS = 500
# One sequence at a time, of ten steps of 4 ms and a prompt of 5: some 20 requests a second.
ONE = Limits(1, 4096, 0, 1000, ttft_target_ms=TARGET_MS)


def crowd(bench: Simulation, rate: float, seconds: float) -> list[tuple[float, Callable[[], object]]]:
    """Requests at a rate, of a hundred prompt tokens and ten of answer."""
    return [(n / rate, lambda n=n: bench.add(f"r{n}", 100, 10)) for n in range(round(rate * seconds))]


def in_time(bench: Simulation) -> float:
    kept = sum(stream.ttft_ms <= TARGET_MS for stream in bench.streams.values())
    return kept / len(bench.streams)


def names(bench: Simulation) -> list[str]:
    return [str(one.request.request_id) for one in bench.scheduler.waiting()]


def test_in_an_overload_most_of_what_can_be_served_is_in_time_and_first_come_first_served_keeps_hardly_any() -> None:
    parted, arrival = Simulation(ONE), Simulation(replace(ONE, ttft_target_ms=0))
    for bench in (parted, arrival):
        bench.run(crowd(bench, 28.0, 60.0))
    assert in_time(arrival) < 0.1
    assert in_time(parted) > 0.45, "it serves seven tenths of them meanwhile, a quarter of these late"


def test_the_late_wait_for_their_turn_and_no_longer() -> None:
    bench = Simulation(ONE)
    bench.run_until(lambda: bench.now >= 20.0, crowd(bench, 28.0, 20.0))
    begun = [stream for stream in bench.streams.values() if stream.token_times_s]
    served = sorted(begun, key=lambda stream: stream.token_times_s[0])
    late = [stream for stream in served if stream.ttft_ms > TARGET_MS]
    assert late == [stream for stream in begun if stream in late], "who has waited longest goes first among the late"
    since = served[served.index(late[0]) :]
    assert len(since) > 300
    assert all(set(map(id, since[n : n + LATE_TURN])) & set(map(id, late)) for n in range(len(since) - LATE_TURN))
    bench.run()
    assert all(stream.done for stream in bench.streams.values())


def test_without_targets_the_order_is_that_of_arrival() -> None:
    bench = Simulation(replace(ONE, ttft_target_ms=0))
    bench.run(crowd(bench, 28.0, 3.0))
    firsts = [stream.token_times_s[0] for stream in bench.streams.values()]
    assert firsts == sorted(firsts)


def test_each_class_has_its_own_target_and_batch_work_none() -> None:
    bench = Simulation(replace(ONE, ttft_target_ms=100, interactive_ttft_target_ms=1000))
    bench.add("runs", 100, 1000, REALTIME)
    bench.step()
    for kind in Priority:
        bench.add(f"{kind.name.lower()} first", 100, 10, kind)
    moment = bench.now
    bench.run_until(lambda: bench.now > moment + PATIENCE * 0.1)
    for kind in Priority:
        bench.add(f"{kind.name.lower()} then", 100, 10, kind)
    bench.step()
    assert names(bench) == [
        *("realtime then", "realtime first"),
        *("interactive first", "interactive then"),
        *("batch first", "batch then"),
    ]
    bench.run_until(lambda: bench.now > moment + PATIENCE * 1.0)
    bench.step()
    assert names(bench)[2:4] == ["interactive then", "interactive first"]
    assert names(bench)[4:] == ["batch first", "batch then"]


def test_a_target_that_is_taken_back_brings_back_the_order_of_arrival() -> None:
    bench = Simulation(ONE)
    bench.add("runs", 100, 1000)
    bench.step()
    bench.add("first", 100, 10)
    bench.run_until(lambda: bench.now > 0.5)
    bench.add("then", 100, 10)
    bench.step()
    assert names(bench) == ["then", "first"]
    bench.scheduler.limits = replace(ONE, ttft_target_ms=0)
    bench.step()
    assert names(bench) == ["first", "then"]


def test_a_stream_that_was_preempted_is_not_late() -> None:
    bench = Simulation(replace(ONE, max_num_seqs=2), blocks=16)
    older, younger = bench.add("older", 100, 100), bench.add("younger", 100, 100)
    bench.run_until(lambda: bench.scheduler.metrics.preemptions > 0)
    assert younger.token_times_s
    assert not younger.done
    bench.now += 10 * TARGET_MS / 1000
    bench.add("new", 10, 10)
    bench.step()
    assert names(bench) == ["younger", "new"]
    bench.run()
    assert older.done


def test_a_late_one_that_has_moved_up_has_its_turn_there_and_goes_before_nobody_else() -> None:
    bench = Simulation(ONE)
    bench.add("runs", 100, 4000, REALTIME)
    bench.step()
    bench.add("old", 100, 10, INTERACTIVE)
    bench.run_until(lambda: bench.now > AGEING_S + 0.1)
    bench.add("chat", 100, 10, INTERACTIVE)
    for number in range(6):
        bench.add(f"v{number}", 100, 10, REALTIME)
    bench.step()
    assert [one.priority for one in bench.scheduler.waiting() if one.late] == [REALTIME]
    bench.scheduler.abort(RequestId("runs"), FinishReason.ABORT, bench.now)
    del bench.streams["runs"]
    bench.run()
    order = sorted(bench.streams, key=lambda name: bench.streams[name].token_times_s[0])
    assert order == ["v0", "v1", "v2", "old", "v3", "v4", "v5", "chat"]
