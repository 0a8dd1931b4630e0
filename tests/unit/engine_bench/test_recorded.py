"""The timed engine of the benchmarks: it answers what it is sent, as it is sent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine_model import ScriptedExecutor

from headway_engine.bench.batching import percentile
from headway_engine.bench.recorded import RecordedEngine
from headway_engine.core.limits import LimitsPatch
from headway_engine.runtime.config import EngineConfig


@pytest.fixture
def executor() -> ScriptedExecutor:
    return ScriptedExecutor((b"x" * 100,))


@pytest.fixture
def engine(executor: ScriptedExecutor) -> Iterator[RecordedEngine]:
    setup = EngineConfig(Path("m"), capacity_max_num_seqs=8, capacity_max_num_batched_tokens=64)
    engine = RecordedEngine(executor, 0, setup, 64, 100)
    yield engine
    engine.close()


def test_a_closed_loop_answers_all_of_it_with_no_more_clients_at_a_time(
    engine: RecordedEngine, executor: ScriptedExecutor
) -> None:
    found = engine.closed(3, [engine.work(4, 5) for _ in range(10)])
    assert (len(found.ttft_ms), len(found.itl_ms), len(found.worst_gaps_ms)) == (10, 40, 10)
    assert found.tokens_per_s > 0
    assert max(len(batch.chunks) for batch in executor.batches) == 3


def test_an_open_loop_answers_all_of_it(engine: RecordedEngine) -> None:
    found = engine.open([(0.001 * n, engine.work(4, 3)) for n in range(20)])
    assert (len(found.ttft_ms), len(found.itl_ms)) == (20, 40)
    assert min(found.ttft_ms) > 0


def test_runs_do_not_see_each_other(engine: RecordedEngine) -> None:
    engine.closed(2, [engine.work(4, 5) for _ in range(4)])
    assert len(engine.closed(2, [engine.work(4, 5) for _ in range(2)]).ttft_ms) == 2


def test_limits_change_and_a_refusal_is_told(engine: RecordedEngine, executor: ScriptedExecutor) -> None:
    engine.set_limits(LimitsPatch(max_num_seqs=1))
    engine.closed(4, [engine.work(4, 2) for _ in range(4)])
    assert {len(batch.chunks) for batch in executor.batches} == {1}
    with pytest.raises(ValueError, match="max_num_seqs is 9"):
        engine.set_limits(LimitsPatch(max_num_seqs=9))


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, percent) for percent in (1, 50, 95, 100)] == [1.0, 50.0, 95.0, 100.0]
    assert percentile([3.0], 50) == 3.0
