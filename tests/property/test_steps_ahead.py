"""Steps that are launched before they are scheduled: every request gets the tokens that it would get alone.

The scheduler and what runs ahead are the real ones; the device is `device_ahead.Device`, which checks whatever is launched.
"""

import random

import pytest
from device_ahead import EOS, FAILED, AheadExecutor, Answer, DeviceError

from headway_engine.core.batch import Batch
from headway_engine.core.blocks import BlockPool
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import BatchingMode, Limits, Profile
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler

MAX_LEN, BLOCK_SIZE = 160, 8
STEP_S = 0.02


class Engine:
    """A scheduler and an executor that runs ahead of it, stepped by hand."""

    def __init__(self, limits: Limits, blocks: int, failures: bool = False) -> None:
        self.pool = BlockPool(blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(self.pool, limits, MAX_LEN, frozenset([EOS]), tokens_ahead=1)
        self.executor = AheadExecutor(blocks, BLOCK_SIZE, MAX_LEN)
        self.failures = failures
        self.now = 0.0
        self.added = 0
        self.open: dict[RequestId, tuple[Answer, int]] = {}  # and the length of its prompt
        self.foreseen: tuple[int, ...] = ()
        self.budget = 0  # of the step that was foreseen
        self.kept_back = 0  # steps that newcomers had to wait for

    def add(
        self,
        prompt: tuple[int, ...],
        sampling: SamplingParams,
        priority: Priority = Priority.INTERACTIVE,
        deadline_s: float | None = None,
    ) -> RequestId:
        self.added += 1
        name = RequestId(f"r{self.added}")
        answer = Answer(list(prompt), self.added, self.failures)
        self.executor.device.answers[self.added] = answer
        self.open[name] = answer, len(prompt)
        self.scheduler.add(Request(name, self.now, None, prompt, sampling, priority, deadline_s), self.added)
        return name

    def step(self) -> Batch | None:
        batch = self.scheduler.schedule(self.now)
        self.now += STEP_S
        if batch is None:
            return None
        self.check(batch)
        try:
            results = self.executor.run(batch)
        except DeviceError:
            self.take(self.scheduler.fail(batch, "device error", self.now))
        else:
            self.take(self.scheduler.commit(batch, results, self.now))
        return batch

    def check(self, batch: Batch) -> None:
        held = {block for sequence in self.scheduler.running() for block in sequence.blocks}
        assert len(held) + self.pool.num_free == self.pool.num_blocks
        assert batch.num_tokens <= max(self.budget, self.scheduler.limits.max_num_batched_tokens)
        ids = [chunk.sequence_id for chunk in batch.chunks]
        kept = [one for one in self.foreseen if one in ids]
        assert ids == kept or not kept, "a step that was foreseen has nothing beside"
        self.kept_back += bool(kept) and len(ids) < self.scheduler.num_running
        self.foreseen = tuple(chunk.sequence_id for chunk in batch.ahead)
        self.budget = self.scheduler.limits.max_num_batched_tokens
        assert sum(len(chunk.token_ids) for chunk in batch.ahead) <= self.budget

    def take(self, events: list[StepEvent]) -> None:
        for event in events:
            answer, prompt_len = self.open[event.request_id]
            finished = event.finished
            if finished is None:
                continue
            del self.open[event.request_id]
            ids = list(finished.output_ids)
            end = prompt_len + len(ids)
            assert ids == [answer.token(position) for position in range(prompt_len, end)]
            assert not answer.failed_at.intersection(range(prompt_len, end))
            if finished.reason is FinishReason.STOP:
                assert ids[-1] == EOS
            assert EOS not in ids[:-1]
            if finished.error == FAILED.message:
                assert answer.result(end) == FAILED


class Soak:
    """An engine under a random workload."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.engine = Engine(self.limits(), blocks=60, failures=True)
        self.openings = [tuple(self.random.randrange(1, 30) for _ in range(40)) for _ in range(4)]

    def limits(self) -> Limits:
        generator = self.random
        seqs = generator.randint(1, 12)
        return Limits(
            seqs,
            generator.randint(max(8, seqs), 96),
            generator.choice([0, 0, 0, 50]),
            1000,
            generator.choice([BatchingMode.CONTINUOUS, *BatchingMode]),
            generator.choice(list(Profile)),
            generator.choice([10, 40, 200]),
            reserved_percent=generator.choice([0, 0, 25]),
        )

    def arrive(self) -> None:
        draw = self.random
        length = draw.randint(1, MAX_LEN - 20)
        start = draw.choice(self.openings)[: draw.randint(0, min(length, 40))]
        prompt = start + tuple(draw.randrange(1, 30) for _ in range(length - len(start)))
        careful = draw.random() < 0.03
        sampling = SamplingParams(max_tokens=draw.randint(1, 30), min_p=0.1 if careful else 0.0)
        deadline_s = self.engine.now + 5 if draw.random() < 0.05 else None
        self.engine.add(prompt, sampling, draw.choice(list(Priority)), deadline_s)

    def disturb(self) -> None:
        draw, engine = self.random, self.engine
        if draw.random() < 0.01:
            engine.scheduler.limits = self.limits()
        engine.take(engine.scheduler.expire(engine.now))
        if engine.open and draw.random() < 0.03:
            event = engine.scheduler.abort(draw.choice(list(engine.open)), FinishReason.ABORT, engine.now)
            assert event is not None
            engine.take([event])
        engine.executor.fail_next = draw.random() < 0.001


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_15_000_steps_ahead_give_every_request_the_tokens_that_it_gets_alone(seed: int) -> None:
    soak = Soak(seed)
    engine, scheduler, executor = soak.engine, soak.engine.scheduler, soak.engine.executor
    while executor.steps < 15_000:
        busy = 0.6 if executor.steps // 500 % 2 else 0.08  # crowds, and times in which hardly anybody comes
        if soak.random.random() < busy and scheduler.num_waiting < 20:
            soak.arrive()
        soak.disturb()
        engine.step()
    executor.fail_next = False
    scheduler.limits = Limits(4, 64, 0, 100)
    while scheduler.num_running or scheduler.num_waiting:
        engine.step()
    assert engine.open == {}
    assert engine.pool.num_free == engine.pool.num_blocks
    assert (scheduler.kv_tokens, scheduler.backlog.tokens) == (0, 0)
    assert scheduler.metrics.preemptions > 100
    assert scheduler.metrics.snapshot().cached_prompt_tokens > 1000
    assert engine.kept_back > 1000
    assert executor.ahead > executor.steps // 4


def test_under_a_steady_mixed_load_every_step_after_the_first_was_launched_ahead_and_in_one_pass() -> None:
    engine = Engine(Limits(32, 64, 0, 1000), blocks=1000)
    draw = random.Random(0)

    def arrive() -> None:
        prompt = tuple(draw.randrange(1, 30) for _ in range(35))
        engine.add(prompt, SamplingParams(max_tokens=20), draw.choice(list(Priority)[:2]))

    for _ in range(8):
        arrive()
    for _ in range(400):
        engine.step()
        while engine.scheduler.num_waiting < 4:
            arrive()
    executor = engine.executor
    assert executor.steps == 400
    assert executor.ahead == 399
    assert executor.device.launches == 401  # each step's, and one ahead of a step that did not come any more
