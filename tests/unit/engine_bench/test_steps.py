"""The grid of steps that calibration measures, and the watch that notes them."""

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from fake_engine_client import eventually
from fake_engine_model import ScriptedExecutor, config, loaded

from headway_engine.bench.steps import Cell, Driver, Plan, cells, samples
from headway_engine.bench.watch import watched
from headway_engine.core.batch import Batch, Chunk
from headway_engine.core.request import SamplingParams
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel

PLAN = Plan(max_seqs=8, max_tokens=256, max_len=1024, cell_tokens=2048, steps=10, repeats=4)


def model(tokens_ahead: int, _: EngineConfig) -> LoadedModel:
    made = loaded(ScriptedExecutor((b"x" * 120,), num_blocks=200))
    return LoadedModel(made.executor, made.tokenizer, made.model_info, tokens_ahead)


def chunk(sequence: int, tokens: int, start: int, sampled: int = 0) -> Chunk:
    table = tuple(range(1 + 30 * sequence, 31 + 30 * sequence))
    return Chunk(sequence, (1,) * tokens, start, table, True, SamplingParams(), 0, sampled)


def steps_of(tokens_ahead: int, path: Path, *batches: Batch) -> list[dict[str, object]]:
    executor = watched(partial(model, tokens_ahead), path, config()).executor
    for batch in batches:
        executor.run(batch)
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_step_is_noted_by_what_it_held(tmp_path: Path) -> None:
    first, second = steps_of(
        0,
        tmp_path / "steps",
        Batch((chunk(0, 5, 0), chunk(1, 7, 0))),
        Batch((chunk(0, 1, 5, sampled=1), chunk(1, 1, 7, sampled=1), chunk(2, 6, 0))),
    )
    assert (first["decodes"], first["context"], first["chunks"]) == (0, 0, [[0, 5], [0, 7]])
    assert (second["decodes"], second["context"], second["chunks"]) == (2, 14, [[0, 6]])
    assert (first["ended"], second["ended"]) == (2, 1)
    assert isinstance(second["ms"], float)
    assert second["ms"] > 0


def test_a_prompt_that_was_not_expected_is_apart_where_the_engine_runs_ahead(tmp_path: Path) -> None:
    batches = (
        Batch((chunk(0, 5, 0),)),
        Batch((chunk(0, 1, 5, sampled=1), chunk(1, 4, 0)), prompts_follow=True),
        Batch((chunk(0, 1, 6, sampled=2), chunk(1, 4, 4))),
        Batch((chunk(0, 1, 7, sampled=3),)),
    )
    assert [step["apart"] for step in steps_of(1, tmp_path / "ahead", *batches)] == [False, True, False, False]
    assert not any(step["apart"] for step in steps_of(0, tmp_path / "not", *batches))


async def test_cells_run_and_their_steps_come_back(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    engine = AsyncEngine.embed(config(), watched(partial(model, 0), path, config()))
    driver = Driver(engine, path)
    assert not driver.ahead
    decodes = await driver.run(Cell("decode", 32, streams=4, context=8, outputs=10))
    assert sum(step["decodes"] for step in decodes) == 4 * 9  # the prompts brought the first token of each
    mixed = await driver.run(Cell("mixed", 32, streams=2, context=8, outputs=110, prompts=(16,) * 3))
    assert sum(step["chunks"] == [[0, 16]] for step in mixed) == 3
    chunked = await driver.run(Cell("chunks", 8, prompts=(24,)))
    assert [step["chunks"] for step in chunked] == [[[0, 8]], [[8, 8]], [[16, 8]]]
    driver.close()
    await engine.stop()


async def test_prompts_of_a_crowd_are_there_together(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    executor = ScriptedExecutor((b"x",), num_blocks=200)
    engine = AsyncEngine.embed(config(), watched(lambda _: loaded(executor), path, config()))
    driver = Driver(engine, path)
    executor.hold()
    run = asyncio.create_task(driver.run(Cell("crowd", 32, prompts=(6,) * 6, together=3)))
    await eventually(lambda: engine.loads().num_total >= 3)
    executor.release(100)
    assert sum(len(step["chunks"]) for step in await run) == 6
    driver.close()
    await engine.stop()


def test_a_sample_is_the_median_of_equal_steps_seen_often_enough() -> None:
    same = [
        {"decodes": 2, "context": 10 + n, "chunks": [[4, 8]], "ended": 1, "apart": False, "ms": ms}
        for n, ms in enumerate((1, 9, 2))
    ]
    rare = [{**same[0], "decodes": 1}, {**same[0], "chunks": [[0, 8]]}, {**same[0], "ended": 0}]
    (found,) = samples("mixed", [*same, *rare])
    assert (found["ms"], found["context"], found["tokens"], found["squares"]) == (2, 11, 8, 8 * (2 * 4 + 8))
    assert found["ended"] == 1


def test_the_grid_stays_inside_the_engine() -> None:
    found = list(cells(PLAN))
    assert len({cell.name for cell in found}) == len(found) > 15
    for cell in found:
        longest = max(cell.prompts, default=0)
        assert cell.streams * cell.context + cell.together * longest <= PLAN.cell_tokens
        assert cell.context + cell.outputs < PLAN.max_len
        assert longest < PLAN.max_len
        assert cell.budget <= PLAN.max_tokens
        assert cell.streams + bool(cell.prompts) <= PLAN.max_seqs
    kinds = {cell.name.split()[0] for cell in found}
    assert kinds == {"prompt", "chunks", "decode", "mixed"}


def test_no_budget_is_below_what_an_engine_of_so_many_sequences_takes() -> None:
    found = cells(replace(PLAN, max_seqs=256, max_tokens=2048, max_len=4096, cell_tokens=250_000))
    assert min(cell.budget for cell in found) >= 256


def test_the_grid_measures_sizes_between_those_that_an_engine_rounds_up_to() -> None:
    found = list(cells(replace(PLAN, max_seqs=256, max_tokens=2048, max_len=8192, cell_tokens=100_000)))
    lengths = {length for cell in found for length in cell.prompts if " by " not in cell.name}
    budgets = {cell.budget for cell in found if cell.streams and cell.prompts and cell.budget < 2048}
    for sizes in (lengths, budgets):
        assert len(sizes) > 3
        assert sum(size % 64 != 0 for size in sizes) > 0.8 * len(sizes)
    crowds = [(cell.streams, cell.prompts[0], cell.together) for cell in found if cell.together > 1]
    assert crowds == [(2, 225, 6), (2, 850, 2), (8, 450, 3), (24, 225, 6), (24, 850, 2), (96, 450, 3)]
    decodes = [cell for cell in found if cell.name.startswith("decode")]
    contexts = {cell.streams: [one.context for one in decodes if one.streams == cell.streams] for cell in decodes}
    assert contexts[1] == contexts[24] == [64, 600, 3072]
    assert contexts[40] == [64, 600, 1024]  # the longest that fits
    assert contexts[96] == [64, 600]
    assert contexts[56] == contexts[112] == [64, 600]  # its neighbours have the longest
    assert contexts[192] == [64]  # nor does the usual one fit
