"""The scheduler under any sequence of arrivals, aborts, deadlines, limit changes, steps and failed steps.

After every rule: blocks are conserved and their holders counted, the counters equal what they count, and within a class, the late
apart, nobody runs while an earlier arrival waits. Every batch keeps the budget and reads only what its own sequence wrote. At the end every
request ends by itself within a bounded number of steps, exactly once, and nothing is left.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway_engine.core.batch import UNSEEN, Batch, Chunk, StepFailure
from headway_engine.core.blocks import BlockPool
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import BatchingMode, Limits, Profile
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler
from headway_engine.core.sequence import Sequence

EOS = 0
BLOCK_SIZE = 4
MAX_MODEL_LEN = 40
MAX_STEPS_TO_END = 20_000
RESERVED = [0, 0, 25, 90]  # percent that batch work leaves free
DUE_MS = [(0, 0), (20, 0), (100, 3000)]  # targets of first tokens, realtime and interactive


@dataclass
class Answer:
    """What the test knows of a request in flight."""

    priority: Priority
    max_tokens: int
    deadline_s: float | None
    tokens: list[int] = field(default_factory=list)


def moved_up(sequence: Sequence) -> bool:
    return sequence.priority is not sequence.workload_class


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.added = 0
        self.first_tokens = 0
        self.given_back = 0
        self.answers: dict[RequestId, Answer] = {}
        self.batch: Batch | None = None
        # What each row of the KV cache was computed from: the tokens up to its own, and who may see it.
        self.rows: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}
        self.ended_in_flight: dict[int, Sequence] = {}
        self.foreseen: tuple[Chunk, ...] = ()
        self.foreseen_under: Limits | None = None
        self.foreseen_preemptions = 0

    @initialize(
        sizes=st.tuples(st.integers(1, 14), st.integers(1, 8), st.integers(8, 32)),
        mode=st.sampled_from(BatchingMode),
        profile=st.sampled_from(Profile),
        reserved=st.sampled_from(RESERVED),
        tokens_ahead=st.integers(0, 1),
        due_ms=st.sampled_from(DUE_MS),
    )
    def boot(
        self,
        sizes: tuple[int, int, int],
        mode: BatchingMode,
        profile: Profile,
        reserved: int,
        tokens_ahead: int,
        due_ms: tuple[int, int],
    ) -> None:
        num_blocks, seqs, budget = sizes
        self.pool = BlockPool(num_blocks, BLOCK_SIZE)
        limits = Limits(
            seqs,
            budget,
            0,
            100,
            mode,
            profile,
            itl_target_ms=20,
            reserved_percent=reserved,
            interactive_itl_target_ms=30,
            batch_itl_target_ms=60,
            ttft_target_ms=due_ms[0],
            interactive_ttft_target_ms=due_ms[1],
        )
        self.scheduler = Scheduler(self.pool, limits, MAX_MODEL_LEN, frozenset([EOS]), tokens_ahead)
        self.tokens_ahead = tokens_ahead

    # ---- rules ------------------------------------------------------------------------------------------------------

    @rule(
        lengths=st.lists(st.integers(1, MAX_MODEL_LEN // 2), min_size=1, max_size=4),
        priority=st.sampled_from(Priority),
        max_tokens=st.integers(1, 30),
        patience=st.sampled_from([None, None, None, 0.5, 5.0]),
        opening=st.integers(0, 2),
        salt=st.sampled_from(["", "", "tenant"]),
    )
    def arrive(
        self, lengths: list[int], priority: Priority, max_tokens: int, patience: float | None, opening: int, salt: str
    ) -> None:
        for length in lengths:
            self.add(length, priority, max_tokens, patience, opening, salt)

    def add(
        self, length: int, priority: Priority, max_tokens: int, patience: float | None, opening: int, salt: str
    ) -> None:
        length = min(length, self.scheduler.max_len - 1)
        request_id = RequestId(f"r{self.added}")
        deadline_s = None if patience is None else self.now + patience
        sampling = SamplingParams(max_tokens=max_tokens)
        # Prompts of one opening share it for 11 tokens, and then each goes its own way.
        prompt = tuple(
            100 * opening + position + 1 if position < 11 else 1000 * self.added + position + 1
            for position in range(length)
        )
        request = Request(
            request_id,
            self.now,
            prompt_ids=prompt,
            sampling=sampling,
            priority=priority,
            deadline_s=deadline_s,
            cache_salt=salt,
        )
        self.scheduler.add(request, seed=self.added)
        self.answers[request_id] = Answer(priority, max_tokens, deadline_s)
        self.added += 1

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), most=st.integers(0, 3))
    def give_back(self, data: st.DataObject, most: int) -> None:
        wanted = data.draw(st.sets(st.sampled_from(sorted(self.answers))))
        begun = {one.request.request_id for one in self.scheduler.running()}
        events = self.scheduler.give_back(frozenset(wanted), most, self.now)
        assert len(events) <= most
        for event in events:
            assert event.request_id in wanted - begun
            answer = self.answers.pop(event.request_id)
            assert (answer.priority, answer.tokens) == (Priority.BATCH, [])
        self.given_back += len(events)

    @rule(delay=st.floats(0, 3))
    def time_passes(self, delay: float) -> None:
        self.now += delay

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.answers)))
        self.watch_in_flight()
        event = self.scheduler.abort(request_id, FinishReason.ABORT, self.now)
        assert event is not None
        self.take([event])
        assert self.scheduler.abort(request_id, FinishReason.ABORT, self.now) is None

    @rule(
        seqs=st.integers(1, 8),
        extra=st.integers(0, 24),
        wait_ms=st.sampled_from([0, 0, 500]),
        mode=st.sampled_from(BatchingMode),
        profile=st.sampled_from(Profile),
        reserved=st.sampled_from(RESERVED),
    )
    def limits_change(
        self, seqs: int, extra: int, wait_ms: int, mode: BatchingMode, profile: Profile, reserved: int
    ) -> None:
        preemptions = self.scheduler.metrics.preemptions
        self.scheduler.limits = Limits(seqs, seqs + extra, wait_ms, 100, mode, profile, reserved_percent=reserved)
        assert self.scheduler.metrics.preemptions == preemptions

    @rule()
    def expire(self) -> None:
        self.watch_in_flight()
        events = self.scheduler.expire(self.now)
        assert all(event.finished and event.finished.reason is FinishReason.DEADLINE for event in events)
        self.take(events)
        assert all(a.deadline_s is None or a.deadline_s > self.now for a in self.answers.values())

    @precondition(lambda self: self.batch is None)
    @rule()
    def schedule(self) -> None:
        scheduler = self.scheduler
        before = scheduler.num_running
        ran = set(scheduler.running())
        self.batch = scheduler.schedule(self.now)
        self.batch_work_took_only_slack(set(scheduler.running()) - ran)
        assert scheduler.num_running <= max(before, scheduler.limits.max_num_seqs)
        if self.batch is not None:
            self.check_budget(self.batch)
            self.check_batch(self.batch)
            self.check_foreseen(self.batch)

    @precondition(lambda self: self.batch is not None)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        assert self.batch is not None
        token: st.SearchStrategy[int | StepFailure] = st.sampled_from(
            [1, 2, 3, 4, 5, 6, 7, 8, EOS, StepFailure("not finite")]
        )
        self.finish_step(tuple(data.draw(token) for chunk in self.batch.chunks if chunk.sample))

    @precondition(lambda self: self.batch is None)
    @rule(count=st.integers(1, 8))
    def steps_go_by(self, count: int) -> None:
        for _ in range(count):
            self.schedule()
            if self.batch is not None:
                self.finish_step(tuple(7 for chunk in self.batch.chunks if chunk.sample))
            self.blocks_are_conserved_and_their_holders_counted()

    @precondition(lambda self: self.batch is not None)
    @rule(luck=st.integers(0, 9))
    def step_fails(self, luck: int) -> None:
        assert self.batch is not None
        if luck:  # a failure ends whatever runs: when it is frequent nothing else is tried
            return
        batch, self.batch = self.batch, None
        self.ended_in_flight.clear()
        events = self.scheduler.fail(batch, "device error", self.now)
        assert all(event.finished and event.finished.error == "device error" for event in events)
        self.take(events)

    # ---- invariants -------------------------------------------------------------------------------------------------

    @invariant()
    def blocks_are_conserved_and_their_holders_counted(self) -> None:
        held = Counter(block for sequence in self.holders() for block in sequence.blocks)
        assert all(len(set(sequence.blocks)) == len(sequence.blocks) for sequence in self.holders())
        assert {block: self.pool.holders(block) for block in held} == held
        assert len(held) + self.pool.num_free == self.pool.num_blocks
        assert not any(sequence.blocks for sequence in self.scheduler.waiting())

    @invariant()
    def counters_equal_what_they_count(self) -> None:
        scheduler = self.scheduler
        alive = (*scheduler.running(), *scheduler.waiting())
        assert scheduler.backlog.tokens == sum(sequence.backlog for sequence in alive)
        computed = sum(sequence.num_computed for sequence in self.holders())
        assert scheduler.kv_tokens == min(computed, (self.pool.num_blocks - self.pool.num_free) * BLOCK_SIZE)
        assert {sequence.request.request_id for sequence in alive} == self.answers.keys()
        metrics = scheduler.metrics
        assert metrics.snapshot().ttft.count == metrics.prefill.snapshot().count == self.first_tokens
        assert sum(metrics.finished.values()) == self.added - len(self.answers) - self.given_back
        assert -metrics.snapshot().classes[Priority.BATCH].moved == self.given_back
        batch = [sequence for sequence in alive if sequence.workload_class is Priority.BATCH]
        assert scheduler.num_waiting_batch == sum(sequence in scheduler.waiting() for sequence in batch)
        finished = sum(one.finished for one in metrics.snapshot().classes)
        assert finished == sum(metrics.finished.values())
        assert scheduler.backlog.batch == sum(sequence.backlog for sequence in batch)

    @invariant()
    def within_a_class_nobody_runs_before_an_earlier_arrival_that_is_late_as_he_is_or_not(self) -> None:
        for priority, late in product(Priority, (False, True)):
            queue = [s for s in self.scheduler.waiting() if s.late is late]
            assert self.ids(queue, priority) == sorted(self.ids(queue, priority))
            # One that moved up meets others of its new class that began before it came; one that is late, those that were not.
            running = self.ids([s for s in self.scheduler.running() if s.late is late and not moved_up(s)], priority)
            waiting = self.ids([s for s in queue if not moved_up(s)], priority)
            assert max(running, default=-1) < min(waiting, default=self.added)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(MAX_STEPS_TO_END):
            if not self.answers and self.batch is None:
                break
            if self.batch is None:
                self.now += 0.01
                self.schedule()
            if self.batch is not None:
                self.finish_step(tuple(5 for chunk in self.batch.chunks if chunk.sample))
        assert not self.answers
        assert self.pool.num_free == self.pool.num_blocks
        assert (self.scheduler.num_running, self.scheduler.num_waiting) == (0, 0)
        assert (self.scheduler.kv_tokens, self.scheduler.backlog.tokens) == (0, 0)
        assert self.scheduler.next_due(self.now) is None or self.scheduler.expire(self.now + 100) == []

    # ---- inside -----------------------------------------------------------------------------------------------------

    def ids(self, sequences: Iterable[Sequence], priority: Priority) -> list[int]:
        return [sequence.sequence_id for sequence in sequences if sequence.priority is priority]

    def holders(self) -> tuple[Sequence, ...]:
        return (*self.scheduler.running(), *self.ended_in_flight.values())

    def watch_in_flight(self) -> None:
        """Remember the sequences of the step in flight: one that ends now still holds its blocks."""
        in_flight = {chunk.sequence_id for chunk in self.batch.chunks} if self.batch else set()
        self.watched = {s.sequence_id: s for s in self.scheduler.running() if s.sequence_id in in_flight}

    def take(self, events: list[StepEvent]) -> None:
        for event in events:
            answer = self.answers[event.request_id]
            self.first_tokens += bool(event.token_ids) and not answer.tokens
            answer.tokens += event.token_ids
            assert len(answer.tokens) <= answer.max_tokens
            if event.finished is not None:
                assert event.finished.output_ids == tuple(answer.tokens)
                del self.answers[event.request_id]
        if self.batch is not None:
            alive = {s.sequence_id for s in self.scheduler.running()}
            self.ended_in_flight |= {key: s for key, s in self.watched.items() if key not in alive}
            # The executor may still write there: blocks go back with the commit and not before.
            assert all(sequence.blocks for sequence in self.ended_in_flight.values())

    def finish_step(self, results: tuple[int | StepFailure, ...]) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self.ended_in_flight.clear()
        self.now += 0.01
        self.take(self.scheduler.commit(batch, results, self.now))

    def batch_work_took_only_slack(self, joined: set[Sequence]) -> None:
        limits, running = self.scheduler.limits, self.scheduler.running()
        batch = [sequence for sequence in joined if sequence.in_slack]
        if not batch or not limits.reserved_percent:
            return
        assert not any(sequence.priority < Priority.BATCH for sequence in self.scheduler.waiting())
        assert len(running) + limits.max_num_seqs * limits.reserved_percent // 100 <= limits.max_num_seqs
        assert len(batch) == 1 or all(sequence.workload_class is Priority.BATCH for sequence in running)

    def check_budget(self, batch: Batch) -> None:
        """A step is what was foreseen, under the limits of that time, without those that have gone; or one of its own."""
        running = {sequence.sequence_id for sequence in self.scheduler.running()}
        scheduled = [(chunk.sequence_id, chunk.start, len(chunk.token_ids)) for chunk in batch.chunks]
        foreseen = [(chunk.sequence_id, chunk.start, len(chunk.token_ids)) for chunk in self.foreseen]
        limits = self.scheduler.limits
        if self.scheduler.metrics.preemptions == self.foreseen_preemptions:
            assert scheduled == [one for one in foreseen if one[0] in running] or running.isdisjoint(
                one[0] for one in foreseen
            )
        if foreseen and set(scheduled) <= set(foreseen):
            assert self.foreseen_under is not None
            limits = self.foreseen_under
        assert batch.num_tokens <= limits.max_num_batched_tokens

    def check_foreseen(self, batch: Batch) -> None:
        """What can be launched behind this step: each chunk into blocks that its sequence holds, behind what it computes."""
        running = {sequence.sequence_id: sequence for sequence in self.scheduler.running()}
        self.foreseen, self.foreseen_under = batch.ahead, self.scheduler.limits
        self.foreseen_preemptions = self.scheduler.metrics.preemptions
        assert self.tokens_ahead or not batch.ahead
        assert batch.prompts_follow or not batch.ahead
        in_step = {chunk.sequence_id: len(chunk.token_ids) for chunk in batch.chunks}
        assert sum(len(chunk.token_ids) for chunk in batch.ahead) <= self.scheduler.limits.max_num_batched_tokens
        for chunk in batch.ahead:
            sequence = running[chunk.sequence_id]
            assert chunk.start == sequence.num_computed + in_step.get(chunk.sequence_id, 0)
            assert chunk.start + len(chunk.token_ids) <= len(chunk.block_table) * BLOCK_SIZE
            assert chunk.block_table == tuple(sequence.blocks)
            if chunk.token_ids == UNSEEN:
                assert (chunk.start, chunk.sample) == (len(sequence.tokens), True)
            else:
                end = chunk.start + len(chunk.token_ids)
                assert chunk.token_ids == tuple(sequence.tokens[chunk.start : end])
                assert chunk.sample == (end == len(sequence.tokens))

    def check_batch(self, batch: Batch) -> None:
        running = {sequence.sequence_id: sequence for sequence in self.scheduler.running()}
        assert batch.chunks
        assert len({chunk.sequence_id for chunk in batch.chunks}) == len(batch.chunks)
        decodes = [running[chunk.sequence_id].decoding for chunk in batch.chunks]
        assert decodes == sorted(decodes, reverse=True)
        for chunk in batch.chunks:
            sequence = running[chunk.sequence_id]
            end = chunk.start + len(chunk.token_ids)
            assert chunk.block_table == tuple(sequence.blocks)
            assert chunk.token_ids == tuple(sequence.tokens[chunk.start : end])
            assert chunk.sample == (end == len(sequence.tokens))
            assert chunk.sample or not sequence.decoding
            assert chunk.num_sampled == len(self.answers[sequence.request.request_id].tokens)
            for position in range(chunk.start, end):
                row = chunk.block_table[position // BLOCK_SIZE], position % BLOCK_SIZE
                self.rows[row] = sequence.request.cache_salt, tuple(sequence.tokens[: position + 1])
        for chunk in batch.chunks:
            sequence = running[chunk.sequence_id]
            for position in range(chunk.start + len(chunk.token_ids)):
                row = chunk.block_table[position // BLOCK_SIZE], position % BLOCK_SIZE
                assert self.rows[row] == (sequence.request.cache_salt, tuple(sequence.tokens[: position + 1]))


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=120, stateful_step_count=60)
