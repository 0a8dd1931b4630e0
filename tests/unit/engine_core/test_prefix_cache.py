"""What is found in the prefix cache, by whom, and for how long."""

import pytest

from headway_engine.core.batch import StepFailure
from headway_engine.core.blocks import BlockPool
from headway_engine.core.limits import Limits
from headway_engine.core.request import Finished, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler

PROMPT = tuple(range(1, 15))  # three blocks of 4, and two tokens


class Bench:
    """A scheduler of small blocks; answers are token 7."""

    def __init__(self, blocks: int = 40, seqs: int = 4, caching: bool = True) -> None:
        self.pool = BlockPool(blocks, 4, caching=caching)
        self.scheduler = Scheduler(self.pool, Limits(seqs, 64, 0, 100), 64, frozenset())
        self.finished: dict[str, Finished] = {}
        self.prefilled = 0
        self.now = 0.0

    def add(
        self,
        name: str,
        prompt: tuple[int, ...] = PROMPT,
        tokens: int = 1,
        salt: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        request = Request(
            RequestId(name),
            self.now,
            prompt_ids=prompt,
            sampling=SamplingParams(max_tokens=tokens),
            priority=priority,
            cache_salt=salt,
        )
        self.scheduler.add(request, seed=0)

    def run(self, token: int | StepFailure = 7) -> None:
        while (batch := self.scheduler.schedule(self.now)) is not None:
            self.prefilled += batch.prompt_tokens
            self.now += 1
            for event in self.scheduler.commit(batch, tuple(token for c in batch.chunks if c.sample), self.now):
                if event.finished is not None:
                    self.finished[event.request_id] = event.finished

    def cached(self, name: str, prompt: tuple[int, ...] = PROMPT, tokens: int = 1, salt: str = "") -> int:
        """Answer a request; how many of its prompt tokens were found."""
        self.add(name, prompt, tokens, salt)
        self.run()
        return self.finished[name].cached_tokens


def test_a_prompt_that_was_there_before_is_found_but_for_its_last_tokens() -> None:
    bench = Bench()
    assert bench.cached("a") == 0
    assert bench.cached("b") == 12
    assert bench.prefilled == 14 + 2
    assert bench.scheduler.metrics.snapshot().cached_prompt_tokens == 12


def test_a_prompt_of_whole_blocks_still_computes_its_last_block() -> None:
    bench = Bench()
    bench.cached("a", PROMPT[:12])
    assert bench.cached("b", PROMPT[:12]) == 8


def test_an_answer_is_found_by_the_next_turn_of_its_conversation() -> None:
    bench = Bench()
    bench.cached("a", tokens=7)  # 21 tokens, of which the last was never computed
    assert bench.cached("b", PROMPT + (7,) * 7 + (30, 31)) == 20


def test_only_the_common_beginning_is_found() -> None:
    bench = Bench()
    bench.cached("a")
    assert bench.cached("b", (*PROMPT[:9], 99, *PROMPT[10:])) == 8
    assert bench.cached("c", (99, *PROMPT[1:])) == 0, "the same tokens behind another beginning are another prefix"


def test_requests_of_another_salt_find_nothing() -> None:
    bench = Bench()
    bench.cached("a", salt="one")
    assert bench.cached("b", salt="two") == 0
    assert bench.cached("c") == 0
    assert bench.cached("d", salt="one") == 12


def test_requests_that_run_together_share_blocks_and_each_gives_its_own_back() -> None:
    bench = Bench()
    bench.add("a", tokens=30)
    batch = bench.scheduler.schedule(0.0)
    assert batch is not None
    bench.scheduler.commit(batch, (7,), 1.0)
    bench.add("b", tokens=30)
    batch = bench.scheduler.schedule(1.0)
    assert batch is not None
    a, b = bench.scheduler.running()
    assert a.blocks[:3] == b.blocks[:3]
    assert not set(a.blocks[3:]) & set(b.blocks[3:])
    assert [bench.pool.holders(block) for block in a.blocks[:3]] == [2, 2, 2]
    bench.scheduler.commit(batch, (7, 7), 2.0)
    bench.run()
    assert bench.pool.num_free == bench.pool.num_blocks


def test_what_two_computed_at_the_same_time_is_one_prefix_and_no_other() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("b")  # neither can find the other's blocks: both compute and register all of them
    bench.run()
    assert [bench.finished[name].cached_tokens for name in "ab"] == [0, 0]
    assert bench.cached("c", PROMPT[4:]) == 0, "they hold these tokens behind others"
    assert bench.cached("d", PROMPT) == 12


def test_blocks_that_are_needed_are_taken_from_the_longest_unused_prefix_its_end_first() -> None:
    bench = Bench(blocks=9)
    bench.cached("old")  # 3 blocks stay known
    bench.cached("young", tuple(range(101, 115)))  # 3 more
    assert bench.pool.num_free == 9
    bench.cached("other", tuple(range(201, 218)))  # takes 5: 3 that hold nothing, and 2 of the old prefix
    assert bench.cached("young again", tuple(range(101, 115))) == 12
    assert bench.cached("old again") == 4


def test_a_cache_that_is_off_finds_nothing() -> None:
    bench = Bench(caching=False)
    bench.cached("a")
    assert bench.cached("b") == 0


def test_what_a_failed_request_computed_is_not_found() -> None:
    bench = Bench()
    bench.add("a")
    bench.run(StepFailure("not finite"))
    assert bench.finished["a"].error == "not finite"
    assert bench.cached("b") == 0


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    bench = Bench(seqs=1)
    bench.add("batch", tokens=20, priority=Priority.BATCH)
    for _ in range(3):
        batch = bench.scheduler.schedule(bench.now)
        assert batch is not None
        bench.scheduler.commit(batch, (7,), bench.now)
    bench.add("better", tuple(range(50, 60)))
    bench.run()
    assert bench.scheduler.metrics.preemptions == 1
    assert bench.prefilled == 10, "of its own 17 tokens only the last one, as a decode"
    assert bench.finished["batch"].cached_tokens == 0, "nothing of its prompt was there when it came"


def test_a_block_in_use_is_not_given_away_whatever_it_holds() -> None:
    pool = BlockPool(2, 4)
    held = pool.allocate(2)
    pool.register(held[0], "", (1, 2, 3, 4))
    with pytest.raises(ValueError, match="0 are free"):
        pool.allocate(1)
    pool.free(held)
    assert pool.match((1, 2, 3, 4, 5), "")[0] == [held[0]]
    pool.allocate(2)
    assert pool.match((1, 2, 3, 4, 5), "")[0] == []
