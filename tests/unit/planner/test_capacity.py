"""What one engine sustains, and targets that no engine reaches."""

from itertools import pairwise

import pytest

from headway_planner.capacity import Mix, sustained
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
