"""What the modes and profiles do to requests: the scheduler on a simulated clock."""

from dataclasses import replace

import pytest
from simulated_steps import FLOOR_MS, PROMPT_TOKEN_MS, Simulation

from headway_engine.core.cuts import Cut, Rules, cut_prompts
from headway_engine.core.limits import BatchingMode, Limits, Profile
from headway_engine.core.request import Priority, Request, RequestId
from headway_engine.core.sequence import Ends, Sequence
from headway_engine.core.step_time import SMALLEST_CHUNK, StepTime


def limits(
    mode: BatchingMode = BatchingMode.CONTINUOUS, seqs: int = 64, wait_ms: int = 0, tokens: int = 4096
) -> Limits:
    return Limits(seqs, tokens, wait_ms, 1000, mode)


def low_tail(itl_ms: int, tokens: int = 8192) -> Limits:
    return Limits(64, tokens, 0, 1000, profile=Profile.LOW_TAIL, itl_target_ms=itl_ms)


def test_static_groups_depend_on_the_order_of_arrival_alone() -> None:
    def groups(gap_s: float) -> set[frozenset[str]]:
        bench = Simulation(limits(BatchingMode.STATIC, seqs=4, wait_ms=500))
        bench.run([(n * gap_s, lambda n=n: bench.add(f"r{n}", 30, 5 + n)) for n in range(10)])
        return {max((group for group in bench.groups if f"r{n}" in group), key=len) for n in range(10)}

    expected = {frozenset(f"r{n}" for n in members) for members in (range(4), range(4, 8), range(8, 10))}
    assert groups(0.0) == groups(0.01) == groups(0.3) == expected


def test_static_lets_nobody_join_a_group_that_runs() -> None:
    bench = Simulation(limits(BatchingMode.STATIC, seqs=2))
    bench.add("a", 30, 10)
    bench.step()
    late = bench.add("late", 30, 2)
    bench.run()
    assert late.token_times_s[0] > bench.streams["a"].token_times_s[-1]


def test_dynamic_holds_a_newcomer_back_no_longer_than_the_wait() -> None:
    bench = Simulation(limits(BatchingMode.DYNAMIC, wait_ms=100))
    bench.add("a", 30, 200)
    bench.run_until(lambda: len(bench.streams["a"].token_times_s) > 3)
    late = bench.add("late", 30, 2)
    bench.run()
    assert 100 <= late.ttft_ms <= 100 + 2 * (FLOOR_MS + 1 + 30 * PROMPT_TOKEN_MS)


def test_dynamic_does_not_wait_once_the_group_is_full() -> None:
    bench = Simulation(limits(BatchingMode.DYNAMIC, seqs=4, wait_ms=1000))
    bench.add("a", 30, 200)
    bench.run_until(lambda: len(bench.streams["a"].token_times_s) > 3)
    group = [bench.add(f"b{n}", 30, 2) for n in range(3)]
    bench.run_until(lambda: all(stream.done for stream in group))
    assert all(stream.ttft_ms < 50 for stream in group)


def test_dynamic_interrupts_running_streams_less_often_than_continuous() -> None:
    def mixed_steps(mode: BatchingMode) -> int:
        bench = Simulation(limits(mode, wait_ms=100))
        bench.add("a", 30, 300)
        mixed = 0
        pending = [0.05 + 0.012 * n for n in range(60)]
        while not bench.streams["a"].done:
            while pending and pending[0] <= bench.now:
                bench.add(f"p{pending.pop(0)}", 50, 2)
            batch = bench.step()
            mixed += batch is not None and batch.prompt_tokens > 0
        return mixed

    assert mixed_steps(BatchingMode.DYNAMIC) * 3 < mixed_steps(BatchingMode.CONTINUOUS)


def test_adaptive_starts_at_once_when_nothing_runs_and_groups_when_much_does() -> None:
    bench = Simulation(limits(BatchingMode.ADAPTIVE, wait_ms=200))
    first = bench.add("first", 30, 2)
    bench.run()
    assert first.ttft_ms < FLOOR_MS + 5
    for n in range(16):
        bench.add(f"r{n}", 30, 400)
    bench.run_until(lambda: bench.scheduler.num_running == 16 and bench.scheduler.backlog.tokens == 0)
    alone = bench.add("alone", 30, 2)
    bench.run_until(lambda: alone.done)
    assert alone.ttft_ms >= 200
    together = [bench.add(f"t{n}", 30, 2) for n in range(4)]
    bench.run_until(lambda: all(stream.done for stream in together))
    assert all(stream.ttft_ms < 50 for stream in together)


def gap_of_streams_while_a_long_prompt_comes(
    rules: Limits, square_ms: float = 0.0, before: tuple[int, ...] = ()
) -> float:
    """32 streams run; a prompt of 3,900 tokens arrives among them. The worst gap of any of them from then on, ms.

    `before`: prompts that had come beside these streams, one after another.
    """
    bench = Simulation(rules, square_ms=square_ms)
    running = [bench.add(f"r{n}", 100, 500) for n in range(32)]
    bench.run_until(lambda: bench.scheduler.backlog.tokens == 0)
    for n, prompt in enumerate(before):
        earlier = bench.add(f"b{n}", prompt, 2)
        bench.run_until(lambda one=earlier: one.done)
    since_s = bench.now
    bench.add("long", 3900, 4)
    bench.run()
    assert all(stream.done for stream in bench.streams.values())
    return max(stream.worst_gap_since_ms(since_s) for stream in running)


def test_low_tail_keeps_every_gap_within_the_target_when_a_long_prompt_comes() -> None:
    for target_ms in (8, 15, 50):
        assert gap_of_streams_while_a_long_prompt_comes(low_tail(target_ms)) <= target_ms
    assert gap_of_streams_while_a_long_prompt_comes(limits(tokens=8192)) > 190


def test_low_tail_keeps_to_the_target_where_tokens_far_back_in_a_prompt_are_dearer() -> None:
    # The last token of the long prompt costs twice, or ten times, what its first one does.
    twice, ten_times = (more * PROMPT_TOKEN_MS / (2 * 3900) for more in (1, 9))
    earlier = (900, 40, 1500)
    for target_ms in (15, 50, 100):
        assert gap_of_streams_while_a_long_prompt_comes(low_tail(target_ms), twice) <= target_ms
        assert gap_of_streams_while_a_long_prompt_comes(low_tail(target_ms), twice, earlier) <= target_ms
        assert gap_of_streams_while_a_long_prompt_comes(low_tail(target_ms), ten_times, earlier) <= target_ms


def test_low_tail_computes_some_tokens_of_the_first_prompt_whatever_they_cost_and_none_of_the_next() -> None:
    def running(number: int, prompt: int, computed: int) -> Sequence:
        request = Request(RequestId(f"r{number}"), 0.0, prompt_ids=(1,) * prompt)
        sequence = Sequence.of(request, number, 0, Priority.INTERACTIVE, Ends(10_000, frozenset()))
        sequence.num_computed = computed
        return sequence

    decode, far, next_one = running(0, 10, 10), running(1, 5000, 4000), running(2, 100, 0)
    late = StepTime(decode_ms=50.0, token_ms=0.1, reach=0.01)  # decodes alone pass the target
    left = [Cut(far, far.backlog), Cut(next_one, next_one.backlog)]
    rules = Rules(Limits(64, 8192, 0, 100, profile=Profile.LOW_TAIL, itl_target_ms=20), late)
    cuts = cut_prompts(left[:1], [decode], 8000, rules)
    assert cuts == [(far, SMALLEST_CHUNK)]
    assert len(cut_prompts(left, [decode], 8000, rules)) == 1


def test_low_tail_uses_most_of_the_target_so_the_long_prompt_is_not_slower_than_it_must() -> None:
    assert gap_of_streams_while_a_long_prompt_comes(low_tail(50)) > 35


def test_low_tail_serves_a_short_prompt_before_the_rest_of_a_long_one() -> None:
    def ttft_of_the_short_one(rules: Limits) -> float:
        bench = Simulation(rules)
        bench.add("running", 100, 500)
        bench.run_until(lambda: bench.scheduler.backlog.tokens == 0)
        bench.add("long", 3900, 2)
        bench.run_until(lambda: bench.scheduler.backlog.tokens < 3500)
        short = bench.add("short", 40, 2)
        bench.run_until(lambda: short.done)
        return short.ttft_ms

    assert ttft_of_the_short_one(low_tail(20)) < 60


def test_low_tail_lets_short_prompts_overtake_a_long_one_for_a_while_only() -> None:
    bench = Simulation(low_tail(10))
    bench.add("running", 100, 4000)
    bench.run_until(lambda: bench.scheduler.backlog.tokens == 0)
    started = bench.now
    # Short prompts come faster than the target lets them be prefilled: without ageing the long one would never end.
    long = bench.add("long", 1000, 1)
    bench.run_until(
        lambda: long.done, [(started + 0.01 * n, lambda n=n: bench.add(f"s{n}", 110, 1)) for n in range(400)]
    )
    last_overtaker = started + 1000 * PROMPT_TOKEN_MS / 1000 * 2
    assert all(
        stream.token_times_s[0] > long.token_times_s[0]
        for name, stream in bench.streams.items()
        if name.startswith("s") and stream.arrival_s > last_overtaker and stream.token_times_s
    )
    assert long.ttft_ms < 1000


@pytest.mark.parametrize(
    ("running", "least_ms", "most_ms"),
    [
        ([Priority.REALTIME], 6, 10),
        ([Priority.INTERACTIVE], 30, 40),
        ([Priority.BATCH], 60, 120),  # so much more than was seen is priced with care
        ([Priority.BATCH, Priority.INTERACTIVE], 30, 40),
        ([Priority.REALTIME, Priority.BATCH, Priority.INTERACTIVE], 6, 10),
    ],
)
def test_a_step_of_low_tail_is_as_long_as_the_strictest_stream_in_it_allows(
    running: list[Priority], least_ms: float, most_ms: float
) -> None:
    bench = Simulation(replace(low_tail(10), interactive_itl_target_ms=40, batch_itl_target_ms=120))
    bench.add("first", 10, 3)
    bench.run()
    for kind in running:
        bench.add(kind.name, 10, 300, kind)
    bench.run_until(lambda: bench.scheduler.backlog.tokens == 0)
    bench.step()
    bench.add("long", 3900, 1)
    began_s = bench.now
    batch = bench.step()
    assert batch is not None
    assert batch.prompt_tokens > 0
    assert least_ms < 1000 * (bench.now - began_s) <= most_ms


def test_a_stream_of_a_stricter_class_bounds_the_steps_from_its_first_token_to_its_last() -> None:
    bench = Simulation(replace(low_tail(10), interactive_itl_target_ms=40))
    chat = bench.add("chat", 20, 400)
    bench.run_until(lambda: len(chat.token_times_s) > 5)
    prompts = [(bench.now + 0.02 * n, lambda n=n: bench.add(f"p{n}", 900, 1)) for n in range(60)]
    voice_s = bench.now + 0.3
    bench.run([*prompts, (voice_s, lambda: bench.add("voice", 20, 30, Priority.REALTIME))])
    voice = bench.streams["voice"]
    assert voice.worst_gap_ms <= 10.001
    assert 30 < chat.worst_gap_since_ms(voice.token_times_s[-1]) <= 40.001
    assert 30 < chat.worst_gap_ms <= 40.001


def test_without_a_target_of_its_own_an_interactive_stream_keeps_to_the_common_one() -> None:
    assert gap_of_streams_while_a_long_prompt_comes(low_tail(15)) <= 15
    assert 15 < gap_of_streams_while_a_long_prompt_comes(replace(low_tail(15), interactive_itl_target_ms=50)) <= 50


def test_batch_work_has_no_bound_on_gaps_so_prompts_fill_the_step() -> None:
    bench = Simulation(low_tail(10))
    bench.add("batch", 100, 50, Priority.BATCH)
    bench.run_until(lambda: bench.scheduler.backlog.tokens == 0)
    bench.add("long", 3900, 2, Priority.BATCH)
    batch = bench.step()
    assert batch is not None
    assert batch.prompt_tokens == 3900


def test_batch_work_is_served_among_better_classes_after_a_bounded_wait() -> None:
    bench = Simulation(Limits(1, 256, 0, 1000))
    batch = bench.add("batch", 50, 5, Priority.BATCH)
    # Realtime work that fills the engine for ever: one request of 5 tokens each 20 ms, which takes about 25 ms.
    count = 0
    while not batch.done:
        while count * 0.02 <= bench.now:
            bench.add(f"r{count}", 20, 5, Priority.REALTIME)
            count += 1
        bench.step()
    assert 10_000 < batch.ttft_ms < 21_000
