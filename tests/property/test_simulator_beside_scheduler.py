"""The simulated replica beside the engine's own scheduler, with steps that take what a step model says: the same times.

The scheduler is the real one, told or not that its executor runs ahead; the executor is a clock.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_cli.simulate import engines
from headway_engine.core.batch import Batch
from headway_engine.core.blocks import BlockPool
from headway_engine.core.limits import Limits
from headway_engine.core.request import Request, RequestId, SamplingParams
from headway_engine.core.scheduler import Scheduler
from headway_planner.model import BatchLimits
from headway_planner.rivals.static import Static
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import Arrival, Rank
from headway_planner.sim.setup import NEVER_DUE, Setup, told
from headway_planner.sim.signals import Bounds
from headway_planner.steps import Chunks, StepModel

MODEL = replace(engines.load(engines.BUILT_IN), first_token_ms=0.0, kv_tokens=200_000)
SEQS, TOKENS = 6, 256
Times = dict[tuple[int, str], float]  # "first" token and "end" of each request, seconds


def simulated(model: StepModel, arrivals: Sequence[Arrival], due_ms: int) -> Times:
    limits = BatchLimits(SEQS, TOKENS)
    due_s = told(due_ms, due_ms) if due_ms else NEVER_DUE
    setup = Setup(model, limits, initial=1, max_replicas=1, due_s=due_s)
    jobs = simulate(setup, arrivals, Static(Bounds(1, 1, SEQS, TOKENS, limits), 1), 0).jobs
    return {
        (number, name): at_s
        for number, job in enumerate(jobs)
        for name, at_s in (("first", job.first_s), ("end", job.end_s))
    }


def scheduled(model: StepModel, arrivals: Sequence[Arrival], due_ms: int) -> Times:
    pool = BlockPool(model.kv_tokens // 16, 16, caching=False)
    limits = Limits(SEQS, TOKENS, 0, 1000, ttft_target_ms=due_ms)
    scheduler = Scheduler(pool, limits, 100_000, frozenset(), int(model.ahead))
    first: dict[int, float] = {}
    end: dict[int, float] = {}
    coming, now, before = list(enumerate(arrivals)), 0.0, None
    while len(end) < len(arrivals):
        while coming and coming[0][1].at_s <= now:
            number, one = coming.pop(0)
            sampling = SamplingParams(max_tokens=one.outputs, ignore_eos=True)
            prompt = (1,) * one.inputs
            scheduler.add(Request(RequestId(str(number)), one.at_s, prompt_ids=prompt, sampling=sampling), 0)
        batch = scheduler.schedule(now)
        if batch is None:
            now, before = coming[0][1].at_s, None
            continue
        now += took_s(model, batch, apart=model.ahead and not (before and before.prompts_follow))
        before = batch
        for event in scheduler.commit(batch, tuple(7 for chunk in batch.chunks if chunk.sample), now):
            first.setdefault(int(event.request_id), now)
            if event.finished:
                end[int(event.request_id)] = now
    return {(number, name): times[number] for name, times in (("first", first), ("end", end)) for number in times}


def took_s(model: StepModel, batch: Batch, *, apart: bool) -> float:
    decodes = [chunk for chunk in batch.chunks if chunk.num_sampled]
    prompts = [chunk for chunk in batch.chunks if not chunk.num_sampled]
    chunks = Chunks(
        sum(len(chunk.token_ids) for chunk in prompts),
        sum(len(chunk.token_ids) * (2 * chunk.start + len(chunk.token_ids)) for chunk in prompts),
        sum(chunk.sample for chunk in prompts),
    )
    context = sum(chunk.start + 1 for chunk in decodes)
    return model.step_ms(len(decodes), context, chunks, apart=apart) / 1000


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0.0003, 0.2), st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=25),
    st.booleans(),
    st.sampled_from([0, 50, 500]),
)
def test_every_request_has_the_same_first_token_and_end(
    lines: list[tuple[float, int, int]], ahead: bool, due_ms: int
) -> None:
    arrivals, at_s = [], 0.0
    for gap_s, inputs, outputs in lines:
        at_s += gap_s
        arrivals.append(Arrival(at_s, inputs, outputs, Rank.INTERACTIVE))
    found, wanted = both(arrivals, ahead, due_ms)
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("ahead", [False, True])
def test_in_an_overload_those_that_are_late_have_the_same_turns(ahead: bool) -> None:
    arrivals = [Arrival(0.004 * n, 40 + 37 * n % 300, 1 + n % 7, Rank.INTERACTIVE) for n in range(400)]
    found, wanted = both(arrivals, ahead, 200)
    waited_s = [wanted[number, "first"] - one.at_s for number, one in enumerate(arrivals)]
    assert 0.2 < sum(one > 0.2 for one in waited_s) / len(waited_s) < 0.8
    assert found == pytest.approx(wanted, abs=1e-6)


def both(arrivals: Sequence[Arrival], ahead: bool, due_ms: int) -> tuple[Times, Times]:
    """The times of the simulated replica, and those of the scheduler."""
    model = replace(MODEL, ahead=ahead)
    return simulated(model, arrivals, due_ms), scheduled(model, arrivals, due_ms)
