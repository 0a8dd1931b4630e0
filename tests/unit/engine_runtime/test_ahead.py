import pytest
from device_ahead import AheadExecutor, Answer, DeviceError

from headway_engine.core.batch import UNSEEN, Batch, Chunk
from headway_engine.core.request import SamplingParams

BLOCK_SIZE, MAX_LEN = 4, 64


class Bench:
    """An executor whose batches a test writes down; every prompt is its request's id, again and again."""

    def __init__(self) -> None:
        self.executor = AheadExecutor(100, BLOCK_SIZE, MAX_LEN)
        self.device = self.executor.device

    def prompt(self, request: int, start: int, end: int, length: int, blocks: tuple[int, ...]) -> Chunk:
        self.device.answers.setdefault(request, Answer([request] * length, request))
        return Chunk(
            request, (request,) * (end - start), start, blocks, end == length, SamplingParams(), request, num_sampled=0
        )

    def decode(self, request: int, start: int, blocks: tuple[int, ...], nth: int) -> Chunk:
        token = self.device.answers[request].token(start)
        return Chunk(request, (token,), start, blocks, True, SamplingParams(), request, nth)

    def launched(self, batch: Batch) -> int:
        """Run a batch and check its tokens; how many launches that took."""
        before = self.device.launches
        results = self.executor.run(batch)
        ends = [(one.seed, one.start + len(one.token_ids)) for one in batch.chunks if one.sample]
        assert list(results) == [self.device.answers[seed].result(end) for seed, end in ends]
        return self.device.launches - before


def unseen(chunk: Chunk) -> Chunk:
    return chunk._replace(token_ids=UNSEEN)


def test_decodes_run_ahead_where_no_prompts_follow() -> None:
    bench = Bench()
    assert bench.launched(Batch((bench.prompt(1, 0, 5, 5, (1, 2)),))) == 2
    assert bench.launched(Batch((bench.decode(1, 5, (1, 2), 1),))) == 1
    assert bench.executor.ahead == 1


def test_nothing_runs_ahead_where_prompts_follow_and_nothing_was_foreseen() -> None:
    bench = Bench()
    assert bench.launched(Batch((bench.prompt(1, 0, 5, 5, (1, 2)),), prompts_follow=True)) == 1


def test_a_foreseen_step_is_one_launch_and_is_taken_when_it_comes() -> None:
    bench = Bench()
    first, rest = bench.prompt(1, 0, 5, 5, (1, 2)), bench.prompt(2, 0, 4, 12, (3, 4, 5))
    decode, chunk = bench.decode(1, 5, (1, 2), 1), bench.prompt(2, 4, 11, 12, (3, 4, 5))
    assert bench.launched(Batch((first, rest), True, (unseen(decode), chunk))) == 2
    last, second = bench.prompt(2, 11, 12, 12, (3, 4, 5)), bench.decode(1, 6, (1, 2), 2)
    assert bench.launched(Batch((decode, chunk), True, (unseen(second), last))) == 1
    assert bench.launched(Batch((second, last), True)) == 0
    assert bench.executor.ahead == 2


def test_what_was_launched_for_a_sequence_that_has_gone_is_left_out_of_the_answers() -> None:
    bench = Bench()
    chunks = tuple(bench.prompt(request, 0, 3, 3, (request,)) for request in (1, 2, 3))
    decodes = [bench.decode(request, 3, (request,), 1) for request in (1, 2, 3)]
    newcomer = bench.prompt(4, 0, 8, 9, (4, 5, 6))
    bench.launched(Batch(chunks, True, (*map(unseen, decodes), newcomer)))
    assert bench.launched(Batch((decodes[0], decodes[2], newcomer), True)) == 0


@pytest.mark.parametrize(
    ("start", "end", "blocks"),
    [(4, 9, (1, 2, 9)), (4, 9, (7, 2, 3)), (3, 8, (1, 2, 3)), (4, 8, (1, 2, 3))],
    ids=["other block at the end", "other block at the beginning", "other start", "other length"],
)
def test_a_chunk_that_is_not_what_was_launched_is_computed_again(start: int, end: int, blocks: tuple[int, ...]) -> None:
    bench = Bench()
    bench.launched(Batch((bench.prompt(1, 0, 4, 12, blocks),)))  # what a prefix cache would have kept of it
    bench.launched(Batch((bench.prompt(1, 0, 4, 12, (1, 2, 3)),), True, (bench.prompt(1, 4, 9, 12, (1, 2, 3)),)))
    assert bench.launched(Batch((bench.prompt(1, start, end, 12, blocks),), True)) == 1


def test_a_block_table_may_have_grown_since_the_launch() -> None:
    bench = Bench()
    first = bench.prompt(1, 0, 3, 3, (1,))
    ahead = (unseen(bench.decode(1, 3, (1,), 1)), bench.prompt(2, 0, 4, 9, (2, 3, 4)))
    bench.launched(Batch((first,), True, ahead))
    assert bench.launched(Batch((bench.decode(1, 3, (1, 8), 1), ahead[1]), True)) == 0


def test_after_a_failed_step_everything_is_launched_again() -> None:
    bench = Bench()
    first = bench.prompt(1, 0, 3, 3, (1,))
    decode, chunk = bench.decode(1, 3, (1,), 1), bench.prompt(2, 0, 4, 9, (2, 3, 4))
    bench.launched(Batch((first,), True, (unseen(decode), chunk)))
    bench.executor.fail_next = True
    with pytest.raises(DeviceError):
        bench.executor.run(Batch((decode, chunk), True))
    assert bench.launched(Batch((chunk,), True)) == 1
