"""Who gets a request: the replica with the least to do, counting requests and the prompts that have no first token yet."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_cli.simulate import engines
from headway_planner.model import BatchLimits
from headway_planner.rivals.static import Static
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import Arrival, Job, Rank
from headway_planner.sim.replica import REQUEST_TOKENS, Replica
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Bounds, Counters

MODEL = engines.load(engines.BUILT_IN)
LIMITS = BatchLimits(64, 2048)
SETUP = Setup(MODEL, LIMITS, initial=2, max_replicas=8)
BOUNDS = Bounds(1, 8, 64, 8192, LIMITS)


def test_nobody_is_sent_behind_a_long_prompt_while_another_replica_has_less_to_do():
    # Ten short prompts are less work than the one of 30,000 tokens, which takes more than a second.
    short = [Arrival(0.01 * index, 200, 5, Rank.INTERACTIVE) for index in range(1, 11)]
    outcome = simulate(SETUP, [Arrival(0.0, 30_000, 5, Rank.INTERACTIVE), *short], Static(BOUNDS, 2), 0)
    long, *others = (job.first_s - job.arrival_s for job in outcome.jobs)
    assert long > 1.0
    assert max(others) < 0.2


def test_a_prompt_that_has_its_first_token_is_a_request_like_any_other():
    # The long one decodes when the others come, two by two: each replica gets as many requests.
    later = [Arrival(5.0, 100, 3000, Rank.INTERACTIVE) for _ in range(5)]
    setup = replace(SETUP, limits=BatchLimits(3, 2048))
    outcome = simulate(setup, [Arrival(0.0, 30_000, 3000, Rank.INTERACTIVE), *later], Static(BOUNDS, 2), 0)
    assert max(job.first_s - job.arrival_s for job in outcome.jobs[1:]) < 0.2, (
        "none waits for a slot: three are on each"
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 4000), st.integers(1, 200), st.sampled_from(Rank), st.booleans(), st.integers(0, 6)),
        max_size=40,
    ),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 60),
)
def test_the_load_is_that_of_the_requests_that_are_there_and_nothing_leaks(
    lines: list[tuple[int, int, Rank, bool, int]], reserve: float, dies: int
):
    replica = Replica(0, replace(MODEL, kv_tokens=9000), LIMITS, Counters(apart=reserve > 0))
    replica.reserve = reserve
    replica.set_limits(LIMITS)
    there: dict[int, Job] = {}

    def expected() -> int:
        counted = [job for job in there.values() if not (job.deferrable and reserve)]
        return sum(REQUEST_TOKENS + (job.inputs if job.first_s < 0 else 0) for job in counted)

    def advance() -> None:
        if replica.wake_s is not None:
            for job in replica.advance(replica.wake_s):
                del there[job.uid]
        assert replica.load == expected()

    now_s = 0.0
    for uid, (inputs, outputs, rank, due, steps) in enumerate(lines):
        job = Job(uid, Arrival(now_s, inputs, outputs, rank, 900.0 if due and rank is Rank.BATCH else math.inf))
        if replica.submit(job, now_s):
            there[uid] = job
        assert replica.load == expected()
        for _ in range(steps):
            now_s = replica.wake_s or now_s
            advance()
        if uid == dies:
            replica.evict_all()
            there.clear()
    while there:
        advance()
    assert replica.load == 0


def test_a_replica_that_died_holds_nothing():
    replica = Replica(0, replace(MODEL, kv_tokens=9000), LIMITS, Counters(apart=False))
    for uid, (inputs, outputs) in enumerate(((100, 50), (4000, 50), (4000, 50))):
        replica.submit(Job(uid, Arrival(0.0, inputs, outputs, Rank.BATCH)), 0.0)
    for _ in range(3):
        assert replica.wake_s is not None
        replica.advance(replica.wake_s)
    assert replica.running == 3
    assert len(replica.evict_all()) == 3
    assert (replica.running, replica.kv_usage, replica.wake_s) == (0, 0.0, None)
    replica.submit(Job(3, Arrival(1.0, 8000, 1, Rank.REALTIME)), 1.0)
    while replica.wake_s is not None:
        ended = replica.advance(replica.wake_s)
    assert [job.uid for job in ended] == [3]


@pytest.mark.parametrize(("reserve", "behind"), [(0.0, True), (0.2, False)])
def test_work_that_only_fills_slack_sends_nobody_elsewhere(reserve: float, behind: bool):
    replica = Replica(0, MODEL, LIMITS, Counters(apart=reserve > 0))
    replica.reserve = reserve
    replica.set_limits(LIMITS)
    replica.submit(Job(0, Arrival(0.0, 5000, 10, Rank.BATCH, 900.0)), 0.0)
    assert (replica.load > 0) is behind
