"""A baseline that moves while the limits are tuned: the spec was edited, or a window opened."""

from typing import Any

import pytest
from fleet_world import World, spec
from loaded_fleet import SLO, TUNING
from toy_traffic import Traffic

from headway_operator.core.plan import Emit, SetLimits

NIGHT = {"name": "night", "cron": "0 1 * * *", "durationSeconds": 3600, "limits": {"maxNumSeqs": 12}}


def tuned(bounds: dict[str, Any] | None = None, **overrides: Any) -> tuple[World, Traffic]:
    """A fleet whose limits tuning has moved away from the baseline of 4 sequences and 64 tokens."""
    world = World(spec(slo=SLO, tuning={**TUNING, "bounds": bounds or {}}, **overrides), boot_s=6)
    traffic = Traffic(world)
    for second in range(60):
        traffic.rate = 4.0 if second >= 10 else 0.0
        traffic.second()
    assert effective(world)["maxNumSeqs"] > 6
    return world, traffic


def effective(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.status["tuning"]["effective"]
    return found


def limits(**values: int | str) -> dict[str, Any]:
    return {**spec()["engine"], "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64, **values}}


@pytest.mark.parametrize("restarted", [False, True])
def test_the_next_pass_brings_it_to_the_engines_and_into_the_history_with_its_reason(restarted: bool) -> None:
    world, traffic = tuned()
    before = effective(world)
    world.edit(engine=limits(maxNumSeqs=6))
    if restarted:
        world.memory = None
    world.run()
    assert effective(world) == {**before, "maxNumSeqs": 6}, "the other limit stays where tuning has it"
    assert {(engine.baseline.max_num_seqs, engine.effective.max_num_seqs) for engine in world.engines.values()} == {
        (6, 6)
    }
    newest = world.status["tuning"]["history"][0]
    assert newest["reason"] == world.status["tuning"]["reason"] == "the spec's limits moved: maxNumSeqs 4 -> 6"
    assert newest["from"] == before
    told = [write.reason for write in world.writes if isinstance(write, Emit) and write.event_reason == "LimitsChanged"]
    assert told[-1] == f"maxNumSeqs {before['maxNumSeqs']} -> 6: the spec's limits moved: maxNumSeqs 4 -> 6"
    traffic.second()
    assert effective(world)["maxNumSeqs"] == 6, "tuning gives it a cooldown"
    for _ in range(40):
        traffic.second()
    assert effective(world)["maxNumSeqs"] > 6, "and goes on from there"


def test_a_limit_that_tuning_does_not_move_leaves_the_tuned_ones_and_says_why_it_changed() -> None:
    world, _ = tuned()
    before = effective(world)
    wait = before["batchWaitMilliseconds"]
    world.edit(engine=limits(batchWaitMilliseconds=11))
    world.run()
    assert effective(world) == {**before, "batchWaitMilliseconds": 11}
    reason = f"the spec's limits moved: batchWaitMilliseconds {wait} -> 11"
    assert world.status["tuning"]["history"][0]["reason"] == reason


def test_it_stays_inside_the_envelope_beside_what_tuning_holds() -> None:
    world, _ = tuned(engine=limits(maxNumBatchedTokens=16), bounds={"maxNumBatchedTokens": {"min": 8, "max": 64}})
    effective(world)["maxNumBatchedTokens"] = 12
    world.edit(engine=limits(maxNumSeqs=14, maxNumBatchedTokens=16))
    world.run()
    assert (effective(world)["maxNumSeqs"], effective(world)["maxNumBatchedTokens"]) == (14, 14)


def test_a_window_brings_its_limits_when_it_opens_and_takes_them_back_when_it_ends() -> None:
    world = World(spec(slo=SLO, tuning=TUNING, schedules=[NIGHT]))
    world.settle()
    for second, seqs in ((3600, 12), (7200, 4)):
        world.tick(second - world.now_s)
        world.run()
        assert effective(world)["maxNumSeqs"] == seqs
    reasons = [change["reason"] for change in world.status["tuning"]["history"]]
    assert reasons == [
        "the spec's limits moved: maxNumSeqs 12 -> 4",
        "the spec's limits moved: maxNumSeqs 4 -> 12; window night sets limits.maxNumSeqs 12",
    ]


def test_a_status_of_a_version_that_kept_no_baseline_moves_nothing() -> None:
    world, _ = tuned()
    del world.status["tuning"]["baseline"]
    before = effective(world)
    written = len(world.writes)
    world.run()
    assert effective(world) == before
    assert not any(isinstance(write, SetLimits) for write in world.writes[written:])
