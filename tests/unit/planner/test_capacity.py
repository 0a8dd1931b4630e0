"""What one engine sustains, and targets that no engine reaches."""

from itertools import pairwise

import pytest

from headway_planner.capacity import Mix, renewed, sustained
from headway_planner.identify import LearntSteps
from headway_planner.model import BatchLimits

# 60 ms and 15 ms a sequence: a small CPU. Alone a sequence takes 75 ms a token, and some more beside the prompts of others.
CPU = LearntSteps(60.0, 15.0, 2.5, kv_tokens=100_000)
MIX = Mix(48.0, 32.0)
LIMITS = BatchLimits(16, 512)


def rate(itl_target_ms: float) -> float:
    return sustained(CPU, MIX, LIMITS, itl_target_ms).rate


def test_a_looser_target_sustains_more_until_the_limits_bind() -> None:
    assert rate(150) < rate(250) < rate(450)
    assert rate(2000) == rate(5000) == sustained(CPU, MIX, LIMITS, 2000).rate
    assert sustained(CPU, MIX, LIMITS, 5000).batch == 16


def test_a_target_far_out_of_reach_does_not_ask_for_an_engine_per_sequence() -> None:
    alone_ms = sustained(CPU, MIX, BatchLimits(1, 512), 1e9).itl_ms
    assert sustained(CPU, MIX, LIMITS, 1.01 * alone_ms).batch == 1
    assert sustained(CPU, MIX, LIMITS, 0.1 * alone_ms).batch == 16


@pytest.mark.parametrize("limit", [1, 4, 16])
def test_the_batch_grows_step_by_step_as_a_target_goes_out_of_reach(limit: int) -> None:
    alone_ms = sustained(CPU, MIX, BatchLimits(1, 512), 1e9).itl_ms
    found = [sustained(CPU, MIX, BatchLimits(limit, 512), alone_ms * share / 100).batch for share in range(100, 20, -1)]
    assert found == sorted(found)
    assert max(after - before for before, after in pairwise(found)) <= 3
    assert found[0] == 1
    assert found[-1] == limit


BEFORE = (9_000.0, 900_000.0, 9_000.0, 450_000.0)  # in minutes, of 100 + 50 tokens


def means(grown: tuple[float, float, float, float], seconds: int, running: float = 0.0) -> list[float]:
    """Tokens of an answer after each second in which that came, after minutes of 50."""
    newest = (1_000.0, 100_000.0, 1_000.0, 50_000.0)
    found, sums = [], (BEFORE, newest)
    for _ in range(seconds):
        sums = renewed(sums, grown, running, 1.0)
        found.append(sums[0][3] / sums[0][2])
    return found


def test_answers_of_another_length_are_believed_after_some_thousand() -> None:
    assert means((250.0, 5_000.0, 250.0, 3_000.0), 15)[-1] == pytest.approx(12, rel=0.4)
    assert means((250.0, 50_000.0, 250.0, 50_000.0), 15)[-1] == pytest.approx(200, rel=0.4)


def test_lengths_that_differ_by_less_change_as_slowly_as_minutes_do() -> None:
    faded = 0.5 ** (1 / 120)
    sums = BEFORE
    for found in means((250.0, 25_000.0, 250.0, 15_000.0), 8):
        sums = tuple(faded * one + more for one, more in zip(sums, (250.0, 25_000.0, 250.0, 15_000.0), strict=True))
        assert found == pytest.approx(sums[3] / sums[2])


def test_first_answers_of_many_running_requests_are_no_other_length() -> None:
    """The short ones of a burst end first: 1,000 of them say nothing about 1,000 that run on."""
    assert means((250.0, 25_000.0, 250.0, 3_000.0), 4, running=1_000.0)[-1] > 40
    assert means((250.0, 25_000.0, 250.0, 3_000.0), 4)[-1] < 30


def test_few_requests_are_averaged_over_minutes_however_they_differ() -> None:
    """At three a second the newest 1,000 go back further than the minutes: they are no news."""
    faded, minutes, grown = 0.5 ** (1 / 120), (519.0, 51_900.0, 519.0, 259_500.0), (3.0, 300.0, 3.0, 150.0)
    sums = (minutes, (1_000.0, 100_000.0, 1_000.0, 500_000.0))
    for _ in range(600):
        sums = renewed(sums, grown, 0.0, 1.0)
        minutes = tuple(faded * one + more for one, more in zip(minutes, grown, strict=True))
        assert sums[0] == pytest.approx(minutes)
