"""The benchmark of fixed limits beside the operator's loop: its traffic, its arithmetic, and its operator of one engine."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import goodput
import goodput_report
import goodput_traffic as traffic
import pytest
from engine_samples import LIMITS, buckets, sample
from fake_control import FakeEngineControl
from goodput_loop import OneReplica, followed
from goodput_report import Run
from goodput_traffic import Phase

from headway_cli.bench.report import Objective, Record
from headway_operator.core.observed import EngineSample
from headway_operator.core.plan import LimitsPatch, SetLimits
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits

PHASES = (Phase("chat", 40, 100, 20, rate=5.0), Phase("code", 20, 200, 4, rate=10.0))
OBJECTIVE = Objective(ttft_ms=1000, tpot_ms=100)
COSTS = LearntSteps(step_ms=10.0, sequence_ms=0.1, token_ms=0.05, kv_tokens=1_000_000)


def record(arrival_s: float, ttft_ms: float = 10.0, tpot_ms: float = 10.0, status: str = "OK") -> Record:
    first_s = arrival_s + ttft_ms / 1000
    return Record(arrival_s, arrival_s, first_s, first_s + tpot_ms * 9 / 1000, 10, (), status)


class TestTraffic:
    def test_each_phase_has_its_rate_and_its_lengths(self) -> None:
        found = traffic.arrivals(PHASES, seed=1)
        chat = [one for one in found if one.at_s < 40]
        code = [one for one in found if one.at_s >= 40]
        assert len(chat) == pytest.approx(200, rel=0.25)
        assert len(code) == pytest.approx(200, rel=0.25)
        assert {50 <= one.input_tokens <= 150 for one in chat} == {True}
        assert {100 <= one.input_tokens <= 300 for one in code} == {True}
        assert found == sorted(found, key=lambda one: one.at_s)

    def test_contestants_of_a_repetition_get_the_same_requests(self) -> None:
        assert traffic.arrivals(PHASES, seed=3) == traffic.arrivals(PHASES, seed=3)
        assert traffic.arrivals(PHASES, seed=3) != traffic.arrivals(PHASES, seed=4)

    def test_rates_are_a_share_of_what_is_sustained(self) -> None:
        whole = traffic.rated(PHASES, COSTS, BatchLimits(256, 8192), 100.0, 1.0)
        part = traffic.rated(PHASES, COSTS, BatchLimits(256, 8192), 100.0, 0.5)
        assert [one.rate for one in part] == pytest.approx([one.rate / 2 for one in whole])
        # 256 sequences: a step of 35.6 ms and 5 ms of prefill for each: 256 / (20 * 0.0356 + 256 * 0.005).
        assert whole[0].rate == pytest.approx(128.5, rel=0.01)

    def test_the_ramp_ends_at_the_mean_rate_of_all_mixes(self) -> None:
        found = traffic.ramp(PHASES, seconds=30.0, seed=0)
        assert len(found) == pytest.approx(100, abs=2)  # 15 s at 2 / (1/5 + 1/10) requests/s
        assert sum(one.at_s > 15 for one in found) == pytest.approx(75, abs=2)
        assert {one.input_tokens for one in found} == {100, 200}

    def test_a_smaller_engine_gets_shorter_requests_and_phases(self) -> None:
        (chat, code) = traffic.scaled(PHASES, 0.1, 0.5)
        assert (chat.inputs, chat.outputs, chat.seconds) == (10, 2, 20)
        assert (code.inputs, code.outputs) == (20, 2)


class TestGoodput:
    def test_good_keeps_both_targets_and_is_answered_in_full(self) -> None:
        records = [
            record(1.0),
            record(2.0, ttft_ms=1001),
            record(3.0, tpot_ms=101),
            record(4.0, status="RESOURCE_EXHAUSTED"),
        ]
        (span,) = traffic.spans(records, (0.0, 8.0), OBJECTIVE)
        assert (span.goodput, span.offered) == (1 / 8, 4 / 8)

    def test_a_request_counts_where_it_arrived(self) -> None:
        records = [record(39.9, ttft_ms=900), record(40.0)]
        spans = traffic.spans(records, traffic.edges(PHASES), OBJECTIVE)
        assert [span.report.requests for span in spans] == [1, 1]

    def test_windows_cover_the_schedule(self) -> None:
        assert traffic.grid(10.0, 2.5) == [0.0, 2.5, 5.0, 7.5, 10.0]

    def test_the_ratio_compares_runs_of_the_same_repetition(self) -> None:
        def run(name: str, repetition: int, good: int) -> Run:
            return Run(name, repetition, [record(float(index)) for index in range(good)], [])

        runs = [run("defaults", 0, 10), run("headway", 0, 15), run("headway", 1, 30), run("defaults", 1, 10)]
        figures = {one.name: one for one in goodput_report.figures(runs, PHASES, OBJECTIVE)}
        ratio = figures["headway over defaults"]
        assert ratio.samples == (1.5, 3.0)
        assert ratio.met
        assert figures["defaults: total goodput"].samples == (10 / 60, 10 / 60)


def options() -> dict[str, Any]:
    found = goodput.parsed(["folder", "qwen06b", "--max-seqs", "64", "--max-tokens", "2048"])
    return dict(goodput.spec(found, "headway"))


def busy(replica: OneReplica) -> list[SetLimits]:
    """Twenty seconds in which requests wait although steps are short: two sequences where many fit."""
    limits = LimitsPatch(2, 2048, 0, 256, "continuous", "throughput", 100, "interactive", 0, 0)
    series: list[EngineSample] = []
    calls: list[SetLimits] = []
    for second in range(20):
        steps = 100 * second
        series.append(
            sample(
                running=2,
                taken_s=1000.0 + second,
                num_waiting=8,
                effective=limits,
                baseline=limits,
                requests_received=20 + 10 * second,
                requests_finished=10 * second,
                generation_tokens=2 * steps,
                prompt_tokens=100 * second,
                ttft=buckets(*[400.0] * (10 * second)),
                itl=buckets(*[10.0] * (2 * steps)),
                steps=steps,
                step_sum_ms=10.0 * steps,
            )
        )
        if second % 2:
            calls += replica.decided(series, 1000.0 + second, datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC))
    return calls


class TestLoop:
    def test_a_queue_before_short_steps_raises_the_limit_as_a_lease_with_its_reason(self) -> None:
        own = options()
        engine = {**own["engine"], "limits": {**goodput.OWN, "maxNumSeqs": 2}}
        replica = OneReplica(own | {"engine": engine})
        raised = [call for call in busy(replica) if call.lease_s]
        assert raised[0].limits.max_num_seqs is not None
        assert raised[0].limits.max_num_seqs > 2
        assert raised[0].expected_revision == 1

    def test_tuning_off_never_lends_limits(self) -> None:
        replica = OneReplica(options() | {"tuning": {"mode": "Off"}})
        assert not [call for call in busy(replica) if call.lease_s]

    def test_a_spec_that_the_operator_refuses_is_refused(self) -> None:
        with pytest.raises(ValueError, match="maxNumSeqs"):
            OneReplica(goodput.spec(goodput.parsed(["folder", "qwen06b", "--max-seqs", "64"]), "vllm-like"))

    @pytest.fixture
    async def engine(self) -> AsyncIterator[tuple[FakeEngineControl, int]]:
        control = FakeEngineControl()
        server, port = await control.serve("127.0.0.1:0")
        yield control, port
        await server.stop(None)

    async def test_an_engine_begins_with_the_limits_of_the_spec(self, engine: tuple[FakeEngineControl, int]) -> None:
        control, port = engine
        async with followed(OneReplica(options()), port) as looks:
            assert (looks[-1].seqs, looks[-1].tokens) == (64, 2048)
        (update,) = control.updates
        assert update.lease_seconds == 0
        assert LIMITS.max_num_seqs != update.limits.max_num_seqs == 64
