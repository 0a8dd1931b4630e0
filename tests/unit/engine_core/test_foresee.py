import pytest

from headway_engine.core.batch import UNSEEN, Batch
from headway_engine.core.blocks import BlockPool
from headway_engine.core.limits import BatchingMode, Limits, Profile
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler


class Bench:
    """A scheduler for an executor that runs ahead.

    Every sampled token is 7, every token takes a millisecond. Chunks are shown as (name, start, tokens).
    """

    def __init__(self, seqs: int = 8, budget: int = 16, blocks: int = 200, max_len: int = 200) -> None:
        pool = BlockPool(blocks, 4, caching=False)
        self.scheduler = Scheduler(pool, Limits(seqs, budget, 0, 100), max_len, frozenset(), tokens_ahead=1)
        self.names: list[str] = []
        self.now = 0.0

    def add(
        self, name: str, length: int, tokens: int = 50, priority: Priority = Priority.INTERACTIVE, min_p: float = 0.0
    ) -> None:
        sampling = SamplingParams(max_tokens=tokens, min_p=min_p)
        prompt = tuple(range(100, 100 + length))
        self.scheduler.add(Request(RequestId(name), self.now, None, prompt, sampling, priority), seed=1)
        self.names.append(name)

    def step(self) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
        """The chunks of a step, and those that were foreseen."""
        self.now += 1
        batch = self.scheduler.schedule(self.now)
        assert batch is not None
        took_s = batch.num_tokens / 1000
        self.scheduler.commit(batch, tuple(7 for chunk in batch.chunks if chunk.sample), self.now + took_s)
        self.batch = batch
        return self.shown(Batch(batch.chunks)), self.shown(Batch(batch.ahead))

    def shown(self, batch: Batch) -> list[tuple[str, int, int]]:
        return [(self.names[one.sequence_id], one.start, len(one.token_ids)) for one in batch.chunks]


def test_the_next_step_is_foreseen_while_prompts_are_left_over() -> None:
    bench = Bench()
    bench.add("a", 6)
    bench.add("b", 30)
    assert bench.step() == ([("a", 0, 6), ("b", 0, 10)], [("a", 6, 1), ("b", 10, 15)])
    decode, prompt = bench.batch.ahead
    assert (decode.token_ids, decode.sample, decode.num_sampled) == (UNSEEN, True, 1)
    assert (prompt.token_ids, prompt.sample) == (tuple(range(110, 125)), False)
    assert bench.step() == ([("a", 6, 1), ("b", 10, 15)], [("a", 7, 1), ("b", 25, 5)])
    assert bench.step() == ([("a", 7, 1), ("b", 25, 5)], [])
    assert not bench.batch.prompts_follow


def test_an_executor_that_does_not_run_ahead_is_told_nothing() -> None:
    bench = Bench()
    bench.scheduler = Scheduler(BlockPool(200, 4), Limits(8, 16, 0, 100), 200, frozenset())
    bench.add("a", 30)
    assert bench.step() == ([("a", 0, 16)], [])
    assert bench.batch.prompts_follow


def test_newcomers_join_the_step_after_the_foreseen_one_a_better_class_first() -> None:
    bench = Bench()
    bench.add("a", 40)
    bench.step()
    bench.add("late", 4, priority=Priority.BATCH)
    bench.add("better", 4, priority=Priority.REALTIME)
    assert bench.step() == ([("a", 16, 16)], [("better", 0, 4), ("a", 32, 8), ("late", 0, 4)])


def test_two_steps_of_prompts_are_let_in() -> None:
    bench = Bench()
    for name in "abcdefgh":
        bench.add(name, 8)
    ahead: list[tuple[str, int, int]] = []
    for _ in range(3):
        chunks, foreseen = bench.step()
        assert chunks == (ahead or chunks)
        ahead = foreseen
        assert sum(num_tokens for _, _, num_tokens in foreseen) == 16


def test_a_step_keeps_to_what_was_foreseen_without_those_that_have_gone() -> None:
    bench = Bench()
    for name, length, tokens in [("ends", 2, 1), ("goes", 2, 50), ("stays", 2, 50), ("long", 40, 50)]:
        bench.add(name, length, tokens)
    assert bench.step()[1] == [("goes", 2, 1), ("stays", 2, 1), ("long", 10, 14)]
    bench.scheduler.abort(RequestId("goes"), FinishReason.ABORT, bench.now)
    assert bench.step()[0] == [("stays", 2, 1), ("long", 10, 14)]


def test_one_that_gives_way_to_a_better_class_leaves_the_foreseen_step() -> None:
    bench = Bench(seqs=2)
    bench.add("a", 4, priority=Priority.BATCH)
    bench.add("b", 40, priority=Priority.BATCH)
    assert bench.step()[1] == [("a", 4, 1), ("b", 12, 15)]
    bench.add("better", 4, priority=Priority.REALTIME)
    assert bench.step() == ([("a", 4, 1)], [("a", 5, 1), ("better", 0, 4)])


def test_a_lowered_limit_and_a_profile_hold_from_the_step_after_the_foreseen_one_on() -> None:
    bench = Bench()
    bench.add("a", 60)
    bench.step()
    bench.scheduler.limits = Limits(8, 8, 0, 100)
    assert bench.step() == ([("a", 16, 16)], [("a", 32, 8)])


def test_when_nothing_is_left_of_a_foreseen_step_the_next_one_is_made_anew() -> None:
    bench = Bench()
    bench.add("a", 40)
    bench.step()
    bench.scheduler.abort(RequestId("a"), FinishReason.ABORT, bench.now)
    bench.add("b", 20)
    assert bench.step()[0] == [("b", 0, 16)]


def test_nothing_is_foreseen_beside_rows_that_the_host_has_to_see_first() -> None:
    bench = Bench()
    bench.add("plain", 2)
    bench.add("careful", 20, min_p=0.1)
    bench.add("long", 80)
    assert bench.step()[1] == []  # it would draw the first token of the careful one
    assert bench.step()[1] == []
    assert bench.step()[0] == [("plain", 3, 1), ("careful", 20, 1), ("long", 9, 14)]


def test_nothing_is_foreseen_where_a_decode_lacks_its_next_block() -> None:
    bench = Bench(blocks=10, seqs=2)
    bench.add("a", 3)
    bench.add("b", 33)  # 9 of 10 blocks: what is free stays below the watermark
    bench.step()
    assert bench.step()[1] == []


def test_nothing_is_foreseen_while_decodes_take_turns() -> None:
    bench = Bench(seqs=4)
    for name in "abcd":
        bench.add(name, 4)
    bench.step()
    bench.add("long", 60)
    bench.scheduler.limits = Limits(5, 3, 0, 100)
    for _ in range(6):
        chunks, foreseen = bench.step()
        assert ([num_tokens for _, _, num_tokens in chunks], foreseen) == ([1, 1, 1], [])


def test_a_sequence_whose_next_token_is_its_last_is_not_in_the_step_after() -> None:
    bench = Bench()
    bench.add("a", 2, tokens=1)
    bench.add("b", 2, tokens=2)
    bench.add("long", 80)
    assert bench.step()[1] == [("b", 2, 1), ("long", 12, 15)]
    assert bench.step()[1] == [("long", 27, 16)]


@pytest.mark.parametrize("mode", [BatchingMode.CONTINUOUS, BatchingMode.ADAPTIVE])
def test_a_foreseen_step_has_as_many_tokens_as_the_mode_gives_it(mode: BatchingMode) -> None:
    bench = Bench(budget=64)
    bench.scheduler.limits = Limits(8, 64, 0, 100, mode)
    bench.add("a", 100)
    chunks, ahead = bench.step()
    expected = {BatchingMode.CONTINUOUS: (64, 36), BatchingMode.ADAPTIVE: (50, 25)}[mode]
    assert (chunks[0][2], ahead[0][2]) == expected


def test_the_low_tail_profile_bounds_a_foreseen_step_too() -> None:
    bench = Bench(budget=64)
    bench.scheduler.limits = Limits(8, 64, 0, 100, profile=Profile.LOW_TAIL, itl_target_ms=20)
    bench.add("a", 4)
    bench.step()
    bench.step()  # without prompts: the price of a decode is known
    bench.add("long", 190)
    bench.step()  # with some: theirs is
    assert bench.step()[1] == [("a", 7, 1), ("long", 120, 17)]
    assert bench.step()[0] == [("a", 7, 1), ("long", 120, 17)]
