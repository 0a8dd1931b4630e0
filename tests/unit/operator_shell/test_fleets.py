"""The task table in virtual time: when a fleet passes, and when it does not."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from shell_harness import KEY
from virtual_time import run_virtual

from headway_operator.shell.fleets import Fleets, backoff_s
from headway_operator.shell.kube import Failure, FleetKey
from headway_operator.shell.reconcile import Outcome

IDLE = Outcome(30.0)


@dataclass
class Script:
    """Passes that take a while and end as told; the last outcome repeats."""

    outcomes: list[Outcome] = field(default_factory=lambda: [IDLE])
    takes_s: float = 0.0
    began_s: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def __call__(self, key: FleetKey) -> Outcome:
        self.began_s.append(now() - START_S)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(self.takes_s)
        self.running -= 1
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]


START_S = 1000.0


def now() -> float:
    return asyncio.get_running_loop().time()


def passes(script: Script, during: Callable[[Fleets], None] | None = None, for_s: float = 100.0) -> list[float]:
    """When the passes of a fleet began, that was woken at 0."""

    async def scene() -> list[float]:
        fleets = Fleets(script)
        fleets.wake(KEY)
        if during is not None:
            during(fleets)
        await asyncio.sleep(for_s)
        await fleets.stop(1.0)
        return script.began_s

    return run_virtual(scene())


def gaps_of(began: list[float]) -> list[float]:
    return [second - first for first, second in pairwise(began)]


def later(at_s: float, what: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(at_s, what)


def test_an_idle_fleet_passes_each_thirty_seconds_with_jitter() -> None:
    began = passes(Script(), for_s=200.0)
    gaps = gaps_of(began)
    assert len(began) >= 7
    assert all(27.0 <= gap <= 30.0 for gap in gaps)


def test_a_wake_causes_a_pass_at_once() -> None:
    assert passes(Script(), lambda fleets: later(10.0, lambda: fleets.wake(KEY)), for_s=20.0) == [0.0, 10.0]


def test_a_burst_of_wakes_costs_one_pass() -> None:
    def burst(fleets: Fleets) -> None:
        for index in range(50):
            later(10.0 + index * 0.001, lambda: fleets.wake(KEY))

    began = passes(Script(), burst, for_s=20.0)
    assert began == [0.0, 10.0, pytest.approx(10.2)]


def test_a_wake_during_a_pass_is_not_lost_and_passes_never_overlap() -> None:
    script = Script(takes_s=5.0)
    began = passes(script, lambda fleets: later(2.0, lambda: fleets.wake(KEY)), for_s=20.0)
    assert began == [0.0, pytest.approx(5.2)]
    assert script.most_running == 1


def test_traffic_alone_causes_a_pass_each_two_seconds() -> None:
    def chatter(fleets: Fleets) -> None:
        for second in range(1, 20):
            later(float(second), lambda: fleets.nudge(KEY))

    began = passes(Script(), chatter, for_s=20.0)
    gaps = gaps_of(began)
    assert gaps
    assert all(gap >= 2.0 for gap in gaps)


def test_failures_back_off_to_a_minute() -> None:
    began = passes(Script([Outcome(0.0, failure=Failure.RETRYABLE)]), for_s=600.0)
    gaps = gaps_of(began)
    assert gaps[0] < 0.6
    assert 60.0 <= gaps[-1] <= 66.0
    assert len(began) < 20


def test_wakes_cannot_turn_a_failing_fleet_into_a_retry_storm() -> None:
    def storm(fleets: Fleets) -> None:
        for index in range(1000):
            later(index * 0.1, lambda: fleets.wake(KEY))

    began = passes(Script([Outcome(0.0, failure=Failure.PERMANENT)]), storm, for_s=100.0)
    assert len(began) <= 21


def test_a_corrected_spec_is_seen_within_five_seconds_of_a_long_backoff() -> None:
    script = Script([Outcome(0.0, failure=Failure.PERMANENT)] * 5 + [IDLE])
    began = passes(script, lambda fleets: later(200.0, lambda: fleets.wake(KEY)), for_s=210.0)
    assert any(200.0 <= at <= 205.0 for at in began)


def test_the_servers_retry_after_is_respected() -> None:
    began = passes(Script([Outcome(20.0, failure=Failure.RETRYABLE), IDLE]), for_s=30.0)
    assert 20.0 <= began[1] <= 22.0


def test_success_forgets_earlier_failures() -> None:
    failure = Outcome(0.0, failure=Failure.RETRYABLE)
    began = passes(Script([failure, failure, failure, Outcome(1.0), failure, IDLE]), for_s=20.0)
    assert began[5] - began[4] < 0.6


def test_a_fleet_that_is_gone_loses_its_task_and_may_come_back() -> None:
    async def scene() -> tuple[int, int, int]:
        script = Script([Outcome(0.0, gone=True), IDLE])
        counts: list[int] = []
        fleets = Fleets(script, counts.append)
        fleets.wake(KEY)
        await asyncio.sleep(1.0)
        gone = len(fleets)
        fleets.wake(KEY)
        await asyncio.sleep(1.0)
        back = len(fleets)
        await fleets.stop(1.0)
        assert counts == [1, 0, 1]
        return gone, back, len(script.began_s)

    assert run_virtual(scene()) == (0, 1, 2)


def test_a_thousand_fleets_pass_eight_at_a_time() -> None:
    async def scene() -> Script:
        script = Script(takes_s=0.01)
        fleets = Fleets(script)
        for index in range(1000):
            fleets.wake(FleetKey("apps", f"fleet-{index}"))
        await asyncio.sleep(5.0)
        await fleets.stop(1.0)
        return script

    script = run_virtual(scene())
    assert len(script.began_s) == 1000
    assert script.most_running == 8


def test_a_stuck_pass_and_a_missed_deadline_show_as_overdue() -> None:
    async def scene() -> tuple[float, float]:
        fleets = Fleets(Script(takes_s=500.0))
        fresh = fleets.longest_overdue_s()
        fleets.wake(KEY)
        await asyncio.sleep(300.0)
        stuck = fleets.longest_overdue_s()
        await fleets.stop(1.0)
        return fresh, stuck

    fresh, stuck = run_virtual(scene())
    assert fresh == 0.0
    assert stuck == pytest.approx(300.0)


def test_stopping_lets_a_short_pass_finish_and_cancels_a_long_one() -> None:
    async def scene(takes_s: float) -> tuple[int, float]:
        script = Script(takes_s=takes_s)
        fleets = Fleets(script)
        fleets.wake(KEY)
        await asyncio.sleep(0.5)
        began_s = now()
        await fleets.stop(2.0)
        return script.running, now() - began_s

    for takes_s, cut_short, patience_s in ((1.0, 0, 0.5), (60.0, 1, 2.0)):
        running, waited_s = run_virtual(scene(takes_s))
        assert running == cut_short
        assert waited_s == pytest.approx(patience_s)


def test_a_conflict_is_retried_soon_and_a_permanent_failure_late() -> None:
    assert backoff_s(1, Failure.CONFLICT) == 0.5
    assert backoff_s(1, Failure.PERMANENT) == 5.0
    assert backoff_s(50, Failure.RETRYABLE) == 60.0
