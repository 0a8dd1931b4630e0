"""200,000 steps of one scheduler: blocks are conserved at each of them, and nobody waits for ever."""

import random

import pytest

from headway_engine.core.blocks import BlockPool
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import BatchingMode, Limits, Profile
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler
from headway_engine.core.waiting import AGEING_S

STEPS = 200_000
STEP_S = 0.02
BLOCKS, BLOCK_SIZE, MAX_LEN = 40, 8, 160
# Two times of ageing, and what it may take until those that run have ended and made room.
LONGEST_WAIT_S = 2 * AGEING_S + 30.0


def limits(generator: random.Random) -> Limits:
    seqs = generator.randint(1, 12)
    return Limits(
        seqs,
        generator.randint(max(16, seqs), 128),
        generator.choice([0, 0, 50, 200]),
        1000,
        generator.choice([mode for mode in BatchingMode if mode is not BatchingMode.STATIC]),
        generator.choice(list(Profile)),
        generator.choice([10, 40, 200]),
    )


class Soak:
    """A scheduler under a random workload on a simulated clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool = BlockPool(BLOCKS, BLOCK_SIZE)
        self.scheduler = Scheduler(self.pool, limits(self.random), MAX_LEN, frozenset([0]))
        self.openings = [tuple(self.random.randrange(1, 1000) for _ in range(40)) for _ in range(4)]
        self.now = self.longest_wait_s = 0.0
        self.added = self.ended = 0
        self.waiting: dict[str, float] = {}  # arrival of those without a first token

    def arrive(self) -> None:
        self.added += 1
        length = self.random.randint(1, MAX_LEN // 2)
        start = self.random.choice(self.openings)[: self.random.randint(0, min(length, 40))]
        prompt = start + tuple(self.random.randrange(1, 1000) for _ in range(length - len(start)))
        sampling = SamplingParams(max_tokens=self.random.randint(1, 20))
        deadline_s = self.now + 5 if self.random.random() < 0.05 else None
        name = RequestId(f"r{self.added}")
        priority = self.random.choice(list(Priority))
        self.scheduler.add(Request(name, self.now, None, prompt, sampling, priority, deadline_s), self.added)
        self.waiting[name] = self.now

    def disturb(self) -> list[StepEvent]:
        if self.random.random() < 0.001:
            self.scheduler.limits = limits(self.random)
        events = self.scheduler.expire(self.now)
        if self.waiting and self.random.random() < 0.01:
            name = RequestId(self.random.choice(list(self.waiting)))
            event = self.scheduler.abort(name, FinishReason.ABORT, self.now)
            events += [] if event is None else [event]
        return events

    def step(self) -> bool:
        batch = self.scheduler.schedule(self.now)
        self.now += STEP_S
        if batch is None:
            return False
        held = {block for sequence in self.scheduler.running() for block in sequence.blocks}
        assert len(held) + self.pool.num_free == BLOCKS
        assert batch.num_tokens <= self.scheduler.limits.max_num_batched_tokens
        if self.random.random() < 0.0005:
            self.take(self.scheduler.fail(batch, "device error", self.now))
        else:
            tokens = tuple(self.random.randrange(40) for chunk in batch.chunks if chunk.sample)
            self.take(self.scheduler.commit(batch, tokens, self.now))
        return True

    def take(self, events: list[StepEvent]) -> None:
        for event in events:
            arrival_s = self.waiting.pop(event.request_id, None)
            if arrival_s is not None and event.token_ids:
                self.longest_wait_s = max(self.longest_wait_s, self.now - arrival_s)
            self.ended += event.finished is not None


@pytest.mark.timeout(300)
def test_200_000_steps_conserve_blocks_and_starve_nobody() -> None:
    soak = Soak(20260131)
    scheduler, steps = soak.scheduler, 0
    while steps < STEPS:
        if soak.random.random() < 0.1 and scheduler.num_waiting < 20:
            soak.arrive()
        soak.take(soak.disturb())
        steps += soak.step()
    assert soak.longest_wait_s < LONGEST_WAIT_S
    assert soak.added - soak.ended == scheduler.num_running + scheduler.num_waiting
    assert scheduler.metrics.preemptions > 500, "memory was short and classes met"
    assert scheduler.metrics.snapshot().cached_prompt_tokens > 10_000
    while scheduler.num_running or scheduler.num_waiting:
        soak.step()
    assert soak.pool.num_free == BLOCKS
    assert (scheduler.kv_tokens, scheduler.backlog.tokens) == (0, 0)
