"""The simulator: every request ends once, a seed is a run, closed forms equal single steps, and Little's law holds."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway_cli.simulate import batch, engines, traces
from headway_planner.model import BatchLimits
from headway_planner.rivals.bounds import work_s
from headway_planner.rivals.static import Static
from headway_planner.sim.arrivals import scaled
from headway_planner.sim.chance import Chance
from headway_planner.sim.fleet import simulate
from headway_planner.sim.jobs import Arrival, End, Rank
from headway_planner.sim.outcome import joined
from headway_planner.sim.policy import Decision
from headway_planner.sim.setup import NEVER_DUE, Setup
from headway_planner.sim.signals import Bounds, FleetView, Sample
from headway_planner.steps import run_time, steps_within

MODEL = engines.load(engines.BUILT_IN)
LIMITS = BatchLimits(64, 2048)
SETUP = Setup(MODEL, LIMITS, initial=1, max_replicas=8, start_delay_s=20, settle_s=0)
BOUNDS = Bounds(1, 8, 64, 8192, LIMITS)
EXCERPT = Path(__file__).parents[3] / "benchmarks" / "traces" / "azure2023_conv_excerpt.csv.gz"


class Swinging:
    """Up and down without reason: starts, cancelled starts and drains all the time."""

    tick_s, lag_s = 5.0, 1.0

    def decide(self, view: FleetView) -> Decision:
        return Decision(1 + int(view.now_s / 5) * 7 % 5, "swings")


def arrivals(count: int, gap_s: float, inputs: int = 500, outputs: int = 50, rank: Rank = Rank.INTERACTIVE):
    return [Arrival(index * gap_s, inputs, outputs, rank) for index in range(count)]


@pytest.mark.parametrize("due_s", [NEVER_DUE, (0.4, 0.5, math.inf)])
def test_every_request_of_a_real_trace_ends_once_while_replicas_come_go_and_fail(due_s: tuple[float, float, float]):
    found = scaled(traces.read(EXCERPT, Rank.INTERACTIVE), 4, 20, Chance(1))
    setup = replace(SETUP, mtbf_s=120, noise=0.1, scrape_loss=0.1, model=replace(MODEL, kv_tokens=30_000), due_s=due_s)
    outcome = simulate(setup, found, Swinging(), seed=3)
    assert Counter(job.end for job in outcome.jobs).total() == len(found)
    assert all(job.end is not None for job in outcome.jobs)
    assert outcome.cut_streams > 0  # failures cut
    assert outcome.preemptions > 0


def test_a_prompt_that_begins_anew_after_a_failure_takes_a_slot_as_any_other():
    running: list[int] = []

    class Watching(Static):
        tick_s = 1.0

        def decide(self, view: FleetView) -> Decision:
            running.extend(one.running for one in view.latest.replicas)
            return super().decide(view)

    long = arrivals(60, 3.0, inputs=60_000, outputs=5)
    simulate(replace(SETUP, initial=4, mtbf_s=30), long, Watching(BOUNDS, 4), seed=3)
    assert 0 <= min(running) < max(running)


def test_scaling_down_cuts_no_stream():
    found = traces.read(EXCERPT, Rank.INTERACTIVE)
    outcome = simulate(SETUP, found, Swinging(), seed=3)
    assert outcome.ended(End.FINISHED) == len(found)
    assert outcome.cut_streams == 0
    assert len(outcome.changes) > 50


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    found = traces.read(EXCERPT, Rank.INTERACTIVE)
    first, again, other = (simulate(SETUP, found, Swinging(), seed) for seed in (5, 5, 6))
    assert [job.end_s for job in first.jobs] == [job.end_s for job in again.jobs]
    assert first.replica_seconds == again.replica_seconds != other.replica_seconds


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 6000), st.integers(1, 300), st.sampled_from(Rank)), max_size=40
    ),
    st.booleans(),
)
def test_runs_of_steps_equal_single_steps(lines: list[tuple[float, int, int, Rank]], ahead: bool):
    found = sorted((Arrival(*line) for line in lines), key=lambda one: one.at_s)
    setup = replace(SETUP, model=replace(MODEL, kv_tokens=12_000, ahead=ahead), limits=BatchLimits(16, 512))
    many = simulate(setup, found, Static(BOUNDS, 1), 0)
    single = simulate(replace(setup, max_run=1), found, Static(BOUNDS, 1), 0)
    for one, other in zip(many.jobs, single.jobs, strict=True):
        assert one.end is other.end
        assert one.first_s == pytest.approx(other.first_s, abs=1e-6)
        assert one.end_s == pytest.approx(other.end_s, abs=1e-6)


@given(st.floats(1e-4, 1), st.floats(0, 0.01), st.integers(1, 5000))
def test_steps_within_is_the_inverse_of_run_time(first: float, growth: float, steps: int):
    elapsed = run_time(first, growth, steps)
    assert steps_within(first, growth, elapsed * (1 - 1e-9)) == steps
    assert steps_within(first, growth, elapsed + first / 2) == steps + 1


def test_mean_requests_in_flight_are_rate_times_mean_stay():
    seen: list[int] = []

    class Watching(Static):
        tick_s = 1.0

        def decide(self, view: FleetView) -> Decision:
            seen.append(view.latest.in_flight)
            return super().decide(view)

    chance, at_s, found = Chance(7), 0.0, []
    for _ in range(6000):
        at_s += chance.exponential(0.1)
        found.append(Arrival(at_s, 500, 100, Rank.INTERACTIVE))
    outcome = simulate(SETUP, found, Watching(BOUNDS, 1), 0)
    stay_s = sum(job.end_s - job.arrival_s for job in outcome.jobs) / len(found)
    assert sum(seen) / len(seen) == pytest.approx(len(found) / at_s * stay_s, rel=0.05)


def test_an_idle_engine_answers_in_the_models_prefill_time():
    outcome = simulate(SETUP, arrivals(3, 10.0, inputs=3000), Static(BOUNDS, 1), 0)
    expected_s = MODEL.prefill_ms(3000, LIMITS.tokens) / 1000
    assert [job.first_s - job.arrival_s for job in outcome.jobs] == pytest.approx([expected_s] * 3)


def test_a_request_that_can_never_fit_is_rejected():
    outcome = simulate(SETUP, [Arrival(0, MODEL.kv_tokens, 1, Rank.BATCH)], Static(BOUNDS, 1), 0)
    assert outcome.ended(End.REJECTED) == 1


def test_realtime_goes_before_batch_and_takes_its_place():
    found = [*(Arrival(0, 500, 2000, Rank.BATCH) for _ in range(64)), Arrival(5, 500, 10, Rank.REALTIME)]
    outcome = simulate(SETUP, found, Static(BOUNDS, 1), 0)
    urgent = outcome.jobs[-1]
    assert urgent.first_s - urgent.arrival_s < 0.2
    assert outcome.preemptions == 1
    assert outcome.ended(End.FINISHED) == 65


def mixed() -> list[Arrival]:
    """A minute of chat, and a heap of batch work at its begin that has ten minutes."""
    heap = [Arrival(0.0, 1000, 400, Rank.BATCH, 600.0) for _ in range(1500)]
    chat = [Arrival(0.5 + 0.2 * index, 500, 50, Rank.INTERACTIVE) for index in range(300)]
    return [*heap, *chat]


POOLED = replace(SETUP, batch_reserve=0.2)


def test_work_with_a_deadline_waits_for_slack_and_leaves_slots_free():
    outcome = simulate(POOLED, mixed(), Static(BOUNDS, 1), 0)
    assert outcome.ended(End.FINISHED) == len(outcome.jobs)
    assert outcome.preemptions == 0, "a fifth of the slots was enough for the chat"
    assert outcome.attainment() == 1.0
    assert outcome.deadlines_met() == 1.0
    assert (outcome.class_attainment(Rank.BATCH) or 0) < 0.6, "it waited"


def test_the_gateway_tells_requests_with_a_deadline_apart_and_the_sums_fit():
    last: list[FleetView] = []

    class Watching(Static):
        def decide(self, view: FleetView) -> Decision:
            last.append(view)
            for one in view.latest.replicas:
                assert one.deferred is not None
                assert 0 <= one.deferred.running <= min(one.running, LIMITS.seqs * 0.8 + 1)
                assert 0 <= one.deferred.queued_tokens <= one.queued_tokens
            return super().decide(view)

    simulate(POOLED, mixed(), Watching(BOUNDS, 1), 0)
    first, end = last[1].latest.deferred, last[-1].latest.deferred
    assert first is not None
    assert end is not None
    assert first.held > 0
    assert first.held_tokens == 1000 * first.held
    made = end.counts
    assert made.arrivals == 1500
    assert 0 < made.finished <= sum(made.ttft) <= sum(made.queue_wait) <= 1500
    assert sum(made.itl) + sum(made.ttft) == made.output_tokens


def test_in_an_overload_a_class_with_a_target_has_most_of_what_is_served_in_time_and_batch_is_as_it_was():
    crowd = [*arrivals(1500, 0.02, 1000, 10), *arrivals(300, 0.1, 200, 10, Rank.BATCH)]
    crowd.sort(key=lambda one: one.at_s)
    kept = []
    for due_s in (NEVER_DUE, (0.4, 1.5, math.inf)):
        outcome = simulate(replace(SETUP, due_s=due_s), crowd, Static(BOUNDS, 1), 0)
        kept.append(outcome.class_attainment(Rank.INTERACTIVE))
        begun = [job.uid for job in sorted(outcome.jobs, key=lambda job: job.first_s) if job.rank == Rank.BATCH]
        assert begun == sorted(begun)
    in_order, parted = kept
    assert in_order is not None
    assert parted is not None
    assert in_order < 0.3
    assert parted > 2 * in_order


def test_work_with_a_deadline_survives_replicas_that_fail_and_ends_once():
    setup = replace(POOLED, mtbf_s=60, model=replace(MODEL, kv_tokens=30_000))
    outcome = simulate(setup, mixed(), Swinging(), seed=3)
    assert all(job.end is not None for job in outcome.jobs)
    assert outcome.preemptions > 0


def test_a_deadline_that_passed_is_a_deadline_missed():
    late = [replace(one, deadline_s=20.0) if one.deferrable else one for one in mixed()]
    outcome = simulate(POOLED, late, Static(BOUNDS, 1), 0)
    met = sum(job.end_s - job.arrival_s <= 20 for job in outcome.jobs if job.deferrable)
    assert outcome.deadlines_met() == met / 1500
    assert 0 < met < 1500


def test_two_fleets_joined_are_one_outcome():
    online = simulate(SETUP, [one for one in mixed() if not one.deferrable], Swinging(), 0)
    batch = simulate(SETUP, [one for one in mixed() if one.deferrable], Static(BOUNDS, 1), 0)
    both = joined(online, batch)
    assert both.gpu_hours == pytest.approx(online.gpu_hours + batch.gpu_hours)
    assert len(both.jobs) == 1800
    assert both.deadlines_met() == batch.deadlines_met()
    assert both.attainment() == online.attainment()
    assert both.reversals_per_hour == pytest.approx(online.reversals_per_hour, rel=0.02)


def test_added_batch_work_is_its_share_of_all_work_and_the_same_for_a_seed():
    found = traces.read(EXCERPT, Rank.INTERACTIVE)
    more = batch.added(found, 0.4, 900.0, MODEL, Chance(4))
    again = batch.added(found, 0.4, 900.0, MODEL, Chance(4))
    assert more == again != batch.added(found, 0.4, 900.0, MODEL, Chance(5))
    added = [one for one in more if one.deferrable]
    assert work_s(MODEL, added) / work_s(MODEL, more) == pytest.approx(0.4, abs=0.01)
    assert {(one.rank, one.deadline_s) for one in added} == {(Rank.BATCH, 900.0)}
    assert max(one.at_s for one in more) == found[-1].at_s


def test_requests_of_one_moment_are_spread_over_the_replicas():
    seen: list[Sample] = []

    class Watching(Static):
        tick_s = 1.0

        def decide(self, view: FleetView) -> Decision:
            seen.append(view.latest)
            return super().decide(view)

    together = [Arrival(at_s, 1000, 3000, Rank.INTERACTIVE) for at_s in (0.0, 2.9) for _ in range(8)]
    simulate(replace(SETUP, initial=4), together, Watching(BOUNDS, 4), 0)
    sample = next(one for one in seen if one.counts.arrivals == 16)
    assert [one.running + one.waiting for one in sample.replicas] == [4, 4, 4, 4]


def test_a_policy_knows_from_its_pods_how_long_a_start_takes():
    seen: list[tuple[float, ...]] = []

    class Watching(Swinging):
        def decide(self, view: FleetView) -> Decision:
            assert len(view.starts) == view.ready
            seen.append(view.starts)
            return super().decide(view)

    simulate(replace(SETUP, initial=4, start_sigma=0.0), arrivals(200, 1.0), Watching(), 0)
    assert seen[0] == (20.0,) * 4
    assert all(start_s >= 20.0 for starts in seen for start_s in starts)


def test_starts_beyond_the_rate_limit_wait_and_are_charged():
    setup = replace(SETUP, start_sigma=0.0, starts_at_once=1, start_delay_s=10)
    outcome = simulate(setup, arrivals(101, 1.0), Static(BOUNDS, 3), 0)
    assert outcome.replica_seconds == pytest.approx(300, rel=0.01)


def test_a_scaled_trace_keeps_its_span_and_its_lengths():
    found = traces.read(EXCERPT, Rank.INTERACTIVE)
    large = scaled(found, 3, 30, Chance(2))
    assert len(large) == 3 * len(found)
    assert 0 <= large[0].at_s <= large[-1].at_s <= found[-1].at_s
    assert {one.inputs for one in large} <= {one.inputs for one in found}
    small = scaled(found, 0.5, 30, Chance(2))
    assert 0.4 * len(found) < len(small) < 0.6 * len(found)


def test_nothing_is_removed_before_a_run_has_settled():
    setup = replace(SETUP, settle_s=60, initial=4)
    outcome = simulate(setup, arrivals(101, 1.0), Static(BOUNDS, 1), 0)
    assert [(change.at_s, change.after) for change in outcome.changes] == [(60.0, 1)]


def test_an_engine_that_runs_ahead_computes_a_prompt_apart_unless_it_was_expected():
    model = replace(MODEL, ahead=True, prefill_factor=1.0, first_token_ms=0.0)
    # The second prompt comes beside a stream: two steps, of which the second was foreseen in the first.
    found = [Arrival(0.0, 100, 500, Rank.INTERACTIVE), Arrival(1.0, 3000, 1, Rank.INTERACTIVE)]
    first_s, gaps_s = [], []
    for one in (model, replace(model, ahead=False)):
        stream, prompt = simulate(replace(SETUP, model=one), found, Static(BOUNDS, 1), 0).jobs
        first_s.append(prompt.first_s)
        gaps_s.append(stream.end_s - stream.first_s)
    chunk = LIMITS.tokens - 1
    apart_ms = model.linear_ms(chunk) - (model.linear_ms(1 + chunk) - model.linear_ms(1))
    assert (first_s[0] - first_s[1]) * 1000 == pytest.approx(apart_ms, abs=1e-6)
    assert (gaps_s[0] - gaps_s[1]) * 1000 == pytest.approx(apart_ms, abs=1e-6)


@pytest.mark.parametrize(
    ("ahead", "during", "with_the_long_one"),
    [
        (False, 1, True),
        (True, 1, False),  # the second step, with the rest of the long prompt, is on the device already
        (False, 2, False),
        (True, 2, False),  # the third step was fixed by nobody: it has decodes only
    ],
)
def test_a_newcomer_joins_the_first_step_that_is_not_fixed_yet(ahead: bool, during: int, with_the_long_one: bool):
    model = replace(MODEL, ahead=ahead, first_token_ms=0.0)
    begun = [Arrival(0.0, 100, 500, Rank.INTERACTIVE), Arrival(1.0, 3000, 200, Rank.INTERACTIVE)]
    setup = replace(SETUP, model=model)
    _, long = simulate(setup, begun, Static(BOUNDS, 1), 0).jobs
    # Two steps; the second one has room for the newcomer's 100 tokens.
    steps_s = long.first_s - 1.0
    at_s = 1.0 + (0.4 if during == 1 else 0.95) * steps_s
    _, long, newcomer = simulate(setup, [*begun, Arrival(at_s, 100, 200, Rank.INTERACTIVE)], Static(BOUNDS, 1), 0).jobs
    assert (newcomer.first_s == long.first_s) is with_the_long_one
    # It begins with the step that it joins: at once with the end of the one under way, or one later.
    third_step = newcomer.admitted_s == long.first_s
    assert third_step is not with_the_long_one
    assert newcomer.first_s - newcomer.admitted_s < 0.1
