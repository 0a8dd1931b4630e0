import pytest

from headway_engine.core.batch import Batch, StepFailure
from headway_engine.core.blocks import BlockPool
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import Limits
from headway_engine.core.request import FinishReason, Priority, Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler

EOS = 0


class Bench:
    """A scheduler whose steps a test makes one by one; every sampled token is 7 unless said."""

    def __init__(self, seqs: int = 4, budget: int = 16, blocks: int = 40, wait_ms: int = 0, max_len: int = 64) -> None:
        pool = BlockPool(blocks, 4, caching=False)  # the prompts begin alike
        self.scheduler = Scheduler(pool, Limits(seqs, budget, wait_ms, 100), max_len, frozenset([EOS]))
        self.now = 0.0

    def add(
        self,
        name: str,
        length: int = 4,
        priority: Priority = Priority.INTERACTIVE,
        sampling: SamplingParams | None = None,
        deadline_s: float | None = None,
    ) -> None:
        request = Request(
            RequestId(name),
            self.now,
            prompt_ids=tuple(range(100, 100 + length)),
            sampling=sampling or SamplingParams(),
            priority=priority,
            deadline_s=deadline_s,
        )
        self.scheduler.add(request, seed=1)

    def schedule(self) -> Batch:
        batch = self.scheduler.schedule(self.now)
        assert batch is not None
        return batch

    def step(self, token: int | StepFailure = 7) -> tuple[list[int], list[StepEvent]]:
        """Tokens of each chunk, and what happened."""
        batch = self.schedule()
        self.now += 1.0
        events = self.scheduler.commit(batch, tuple(token for chunk in batch.chunks if chunk.sample), self.now)
        return [len(chunk.token_ids) for chunk in batch.chunks], events

    def running(self) -> list[str]:
        return [sequence.request.request_id for sequence in self.scheduler.running()]

    def waiting(self) -> list[str]:
        return [sequence.request.request_id for sequence in self.scheduler.waiting()]


def test_an_empty_queue_with_no_wait_dispatches_at_once() -> None:
    bench = Bench()
    assert bench.scheduler.next_due(0.0) is None
    bench.add("a")
    assert bench.scheduler.next_due(0.0) == 0.0
    assert bench.step()[0] == [4]


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget_and_samples_once() -> None:
    bench = Bench(budget=16)
    bench.add("a", length=40)
    sizes, events = zip(*(bench.step() for _ in range(3)), strict=True)
    assert sizes == ([16], [16], [8])
    assert [len(of_step) for of_step in events] == [0, 0, 1]


def test_decodes_come_first_and_prefill_takes_what_the_budget_leaves() -> None:
    bench = Bench(budget=16)
    bench.add("a")
    bench.add("b")
    bench.step()
    bench.add("c", length=30)
    assert bench.step()[0] == [1, 1, 14]
    assert bench.step()[0] == [1, 1, 14]
    assert bench.step()[0] == [1, 1, 2]


def test_lowering_max_num_seqs_drains_down_without_preempting() -> None:
    bench = Bench(seqs=4)
    for name in "abcde":
        bench.add(name, length=2, sampling=SamplingParams(max_tokens=5))
    bench.step()
    bench.scheduler.limits = Limits(1, 16, 0, 100)
    for _ in range(3):
        bench.step()
    assert bench.running() == ["a", "b", "c", "d"]
    bench.step()
    bench.step()
    assert bench.running() == ["e"]
    assert bench.scheduler.metrics.preemptions == 0


def test_raising_max_num_seqs_admits_in_the_next_step() -> None:
    bench = Bench(seqs=1)
    bench.add("a")
    bench.add("b")
    bench.step()
    assert bench.running() == ["a"]
    bench.scheduler.limits = Limits(2, 16, 0, 100)
    bench.step()
    assert bench.running() == ["a", "b"]


def test_decodes_beyond_the_budget_take_turns() -> None:
    bench = Bench(seqs=4, budget=16)
    for name in "abcd":
        bench.add(name)
    bench.step()
    bench.scheduler.limits = Limits(2, 2, 0, 100)
    served = [event.request_id for _ in range(4) for event in bench.step()[1]]
    assert sorted(served) == sorted("abcd" * 2)


def test_better_classes_are_served_first_and_arrivals_in_order_within_one() -> None:
    bench = Bench(seqs=2)
    bench.add("batch", priority=Priority.BATCH)
    bench.add("first")
    bench.add("second")
    bench.add("realtime", priority=Priority.REALTIME)
    bench.step()
    assert bench.running() == ["realtime", "first"]
    assert bench.waiting() == ["second", "batch"]


def test_a_better_class_takes_the_slot_of_a_worse_one() -> None:
    bench = Bench(seqs=2)
    bench.add("old", priority=Priority.BATCH)
    bench.add("young", priority=Priority.BATCH)
    bench.step()
    bench.add("realtime", priority=Priority.REALTIME)
    bench.step()
    assert bench.running() == ["old", "realtime"]
    assert bench.waiting() == ["young"]


def test_a_better_class_overtakes_a_running_prefill_of_a_worse_one() -> None:
    bench = Bench(budget=16)
    bench.add("long", length=60, priority=Priority.BATCH)
    bench.step()
    bench.add("short", length=6, priority=Priority.REALTIME)
    assert bench.step()[0] == [6, 10]


def test_a_lowered_limit_is_not_made_up_for_by_class_preemption() -> None:
    bench = Bench(seqs=3)
    for name in "abc":
        bench.add(name, priority=Priority.BATCH)
    bench.step()
    bench.scheduler.limits = Limits(1, 16, 0, 100)
    bench.add("realtime", priority=Priority.REALTIME)
    bench.step()
    assert bench.running() == ["a", "b", "c"]
    assert bench.scheduler.metrics.preemptions == 0


def test_a_class_never_preempts_its_own_for_a_slot() -> None:
    bench = Bench(seqs=1)
    bench.add("a", priority=Priority.REALTIME)
    bench.step()
    bench.add("b", priority=Priority.REALTIME)
    bench.step()
    assert bench.running() == ["a"]


def test_out_of_blocks_the_latest_arrival_is_preempted_and_keeps_its_tokens() -> None:
    bench = Bench(blocks=8, max_len=32, budget=32)
    bench.add("a", length=14, sampling=SamplingParams(max_tokens=8))
    bench.add("b", length=14, sampling=SamplingParams(max_tokens=8))
    bench.step(10)
    bench.step(11)
    bench.step(12)
    assert bench.running() == ["a", "b"]
    bench.step(13)
    assert (bench.running(), bench.waiting()) == (["a"], ["b"])
    for token in range(14, 18):
        bench.step(token)
    assert bench.running() == []
    batch = bench.schedule()
    assert batch.chunks[0].token_ids[-3:] == (10, 11, 12)
    assert (batch.chunks[0].start, batch.chunks[0].num_sampled) == (0, 3)


def test_a_preempted_request_ends_with_every_token_it_was_given() -> None:
    bench = Bench(blocks=9, max_len=32, budget=32)
    bench.add("a", length=16, sampling=SamplingParams(max_tokens=8))
    bench.add("b", length=12, sampling=SamplingParams(max_tokens=8))
    answers: dict[str, list[int]] = {"a": [], "b": []}
    token = 10
    while bench.scheduler.num_running + bench.scheduler.num_waiting:
        for event in bench.step(token)[1]:
            answers[event.request_id] += event.token_ids
            if event.finished:
                assert list(event.finished.output_ids) == answers[event.request_id]
        token += 1
    assert [len(tokens) for tokens in answers.values()] == [8, 8]
    assert bench.scheduler.metrics.preemptions == 1


def test_the_first_token_of_a_preempted_request_counts_once() -> None:
    bench = Bench(blocks=8, max_len=32, budget=32)
    bench.add("a", length=14, sampling=SamplingParams(max_tokens=8))
    bench.add("b", length=14, sampling=SamplingParams(max_tokens=8))
    while bench.scheduler.num_running + bench.scheduler.num_waiting:
        bench.step()
    metrics = bench.scheduler.metrics
    assert metrics.preemptions == 1
    assert metrics.snapshot().ttft.count == metrics.snapshot().queue_wait.count == 2
    assert metrics.generation_tokens == 16
    assert metrics.snapshot().prompt_tokens == 28


def test_admission_keeps_a_watermark_free_for_growth() -> None:
    bench = Bench(blocks=20, budget=100, max_len=80)
    bench.add("a", length=60)  # 15 of 20 blocks
    bench.add("b", length=15)  # 4 blocks would leave 1, the watermark is 2
    bench.step()
    assert bench.running() == ["a"]
    assert bench.scheduler.open_slots == 0


def test_a_request_as_large_as_the_pool_runs_alone_and_ends_with_length() -> None:
    bench = Bench(blocks=3, max_len=64, budget=16)
    bench.add("a", length=11)
    _, events = bench.step()
    assert events[0].finished is not None
    assert events[0].finished.reason is FinishReason.LENGTH


def test_a_request_that_can_never_fit_is_a_bug_of_the_caller() -> None:
    bench = Bench(blocks=3)
    with pytest.raises(ValueError, match="12 prompt tokens"):
        bench.add("a", length=12)


def test_an_abort_between_schedule_and_commit_keeps_the_blocks_until_commit() -> None:
    bench = Bench()
    bench.add("a")
    batch = bench.schedule()
    pool = bench.scheduler.pool
    event = bench.scheduler.abort(RequestId("a"), FinishReason.ABORT, 0.5)
    assert event is not None
    assert event.finished is not None
    assert pool.num_free == pool.num_blocks - 1
    assert bench.scheduler.commit(batch, (7,), 1.0) == []
    assert pool.num_free == pool.num_blocks


def test_a_request_id_can_be_used_again_while_its_old_step_is_in_flight() -> None:
    bench = Bench()
    bench.add("a")
    batch = bench.schedule()
    bench.scheduler.abort(RequestId("a"), FinishReason.ABORT, 0.5)
    bench.add("a", length=8)
    assert bench.scheduler.commit(batch, (7,), 1.0) == []
    assert bench.step()[0] == [8]


def test_an_abort_of_a_waiting_request_frees_its_place() -> None:
    bench = Bench(seqs=1)
    for name in "abc":
        bench.add(name)
    bench.step()
    bench.scheduler.abort(RequestId("b"), FinishReason.ABORT, bench.now)
    assert bench.waiting() == ["c"]
    assert bench.scheduler.abort(RequestId("b"), FinishReason.ABORT, bench.now) is None


def test_a_deadline_ends_a_request_and_is_the_next_due_time() -> None:
    bench = Bench(wait_ms=5000)
    bench.add("a", deadline_s=3.0)
    assert bench.scheduler.next_due(0.0) == 3.0
    assert bench.scheduler.expire(2.9) == []
    (event,) = bench.scheduler.expire(3.0)
    assert event.finished is not None
    assert (event.finished.reason, event.finished.queue_ms, event.finished.ttft_ms) == (FinishReason.DEADLINE, 3000, 0)


def test_a_deadline_of_an_ended_request_does_not_touch_its_successor() -> None:
    bench = Bench()
    bench.add("a", deadline_s=1.0)
    bench.scheduler.abort(RequestId("a"), FinishReason.ABORT, 0.0)
    bench.add("a")
    assert bench.scheduler.expire(2.0) == []


def test_deadlines_of_ended_requests_do_not_pile_up() -> None:
    bench = Bench()
    for number in range(1000):
        bench.add(f"r{number}", deadline_s=1e6)
        bench.scheduler.abort(RequestId(f"r{number}"), FinishReason.ABORT, 0.0)
    assert len(bench.scheduler._deadlines) <= 65


def test_an_idle_engine_waits_for_company_until_the_wait_is_over() -> None:
    bench = Bench(wait_ms=20)
    bench.add("a")
    assert bench.scheduler.schedule(0.019) is None
    assert bench.scheduler.next_due(0.0) == 0.02
    assert bench.scheduler.open_slots == 4
    assert bench.scheduler.schedule(0.02) is not None


@pytest.mark.parametrize(("arrivals", "length"), [(4, 1), (2, 8)])
def test_a_wait_for_company_ends_when_a_step_is_full(arrivals: int, length: int) -> None:
    bench = Bench(wait_ms=1000, seqs=4, budget=16)
    for number in range(arrivals - 1):
        bench.add(f"r{number}", length=length)
    assert bench.scheduler.schedule(0.0) is None
    bench.add("last", length=length)
    assert bench.scheduler.schedule(0.0) is not None


def test_a_running_engine_does_not_wait_for_company() -> None:
    bench = Bench(wait_ms=20)
    bench.add("a")
    bench.now = 1.0
    bench.step()
    bench.add("b")
    assert bench.step()[0] == [1, 4]


def test_the_end_token_stops_and_ignore_eos_goes_on() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("b", sampling=SamplingParams(ignore_eos=True))
    _, events = bench.step(EOS)
    assert [event.finished is not None for event in events] == [True, False]
    assert events[0].finished is not None
    assert events[0].finished.output_ids == (EOS,)


def test_a_failed_chunk_ends_its_request_only() -> None:
    bench = Bench()
    bench.add("a")
    bench.add("b")
    batch = bench.schedule()
    events = bench.scheduler.commit(batch, (StepFailure("not finite"), 7), 1.0)
    assert events[0].finished is not None
    assert (events[0].finished.reason, events[0].finished.error) == (FinishReason.ERROR, "not finite")
    assert events[1].finished is None


def test_a_failed_step_ends_its_batch_and_leaves_the_waiting() -> None:
    bench = Bench(seqs=1)
    bench.add("a")
    bench.add("b")
    batch = bench.schedule()
    (event,) = bench.scheduler.fail(batch, "out of memory", 1.0)
    assert event.request_id == "a"
    assert event.finished is not None
    assert event.finished.error == "out of memory"
    assert bench.scheduler.pool.num_free == bench.scheduler.pool.num_blocks
    bench.step()
    assert bench.running() == ["b"]


def test_latencies_are_measured_from_arrival() -> None:
    bench = Bench(budget=4)
    bench.add("a", length=8)
    bench.now = 2.0
    bench.step()
    bench.step()
    bench.step(EOS)
    metrics = bench.scheduler.metrics.snapshot()
    sums = [histogram.sum_ms for histogram in (metrics.queue_wait, metrics.prefill, metrics.ttft)]
    assert sums == [2000, 2000, 4000]
    assert (metrics.itl.sum_ms, metrics.e2e.sum_ms) == (1000, 5000)


def test_schedule_before_commit_is_a_bug_of_the_caller() -> None:
    bench = Bench()
    bench.add("a")
    bench.schedule()
    with pytest.raises(RuntimeError, match="before commit"):
        bench.scheduler.schedule(0.0)
