"""What the simulator says of an advised count."""

from dataclasses import replace

import pytest

from headway_planner.advisor import assess, computed
from headway_planner.capacity import Mix
from headway_planner.offer import ClassDemand, Demand, Hardware
from headway_planner.roofline import GPUS, SHAPES, step_model
from headway_planner.sim.jobs import Arrival, Rank
from headway_planner.trial import NEAR, enough, poisson, trial, tried


def one_class(rate: float, inputs: float, outputs: float) -> Demand:
    return Demand((ClassDemand("interactive", rate, Mix(inputs, outputs), 1500, 100),))


def test_a_nearly_full_fleet_that_misses_a_target_in_the_simulator_gets_more_replicas() -> None:
    hardware, demand = Hardware(GPUS["H200"], 2), one_class(6, 3000, 250)
    engine = computed(SHAPES["llama70b"], hardware)
    row = assess(engine, demand)
    row = replace(row, replicas=row.replicas // 2)
    assert row.lateness > NEAR
    better = tried(engine, demand, row)
    assert (better.estimated, better.gpus) == (row.replicas, 2 * better.replicas)
    assert row.replicas < better.replicas <= 2 * row.replicas
    arrivals = poisson(demand, 3)
    assert not trial(engine.model, row.replicas, demand, arrivals, 3).confirmed
    assert trial(engine.model, better.replicas, demand, arrivals, 3).confirmed


def test_a_fleet_with_room_is_not_tried_and_one_that_keeps_its_targets_stays() -> None:
    hardware = Hardware(GPUS["H100"], 1)
    engine = computed(SHAPES["llama8b"], hardware)
    for demand, near in ((one_class(20, 1000, 200), False), (one_class(2, 14_000, 50), True)):
        row = assess(engine, demand)
        assert (row.lateness > NEAR) == near
        assert tried(engine, demand, row) is row


def test_targets_that_no_count_keeps_in_the_simulator_are_told() -> None:
    # Its estimate is what a prompt alone takes; a prompt comes while a step is under way.
    hardware, demand = Hardware(GPUS["H100"], 1), one_class(4, 3000, 100)
    engine = computed(SHAPES["llama8b"], hardware)
    row = assess(engine, demand)
    model = engine.model
    tight = Demand((replace(demand.classes[0], ttft_ms=model.prefill_ms(3000, 2048) * 0.9),))
    late = replace(row, classes=tuple(replace(one, ttft_target_ms=tight.classes[0].ttft_ms) for one in row.classes))
    found = tried(engine, tight, late)
    assert (found.replicas, found.gpus, found.classes) == (0, 0, ())
    assert found.binds.startswith("infeasible: p95 TTFT ")
    assert (
        f" (interactive) with {row.replicas} and {round(1.5 * row.replicas)} replicas in the simulator: " in found.binds
    )
    assert found.binds.endswith(" and steps with prompts bind; take a faster GPU or more TP")


def test_a_fleet_that_more_replicas_hardly_help_is_not_advised() -> None:
    # Prompts of 3,000 tokens of batch work hold up first tokens that may take 400 ms, whatever the count.
    realtime = ClassDemand("realtime", 10, Mix(200, 200), 400, 50)
    demand = Demand((realtime, ClassDemand("batch", 4, Mix(3000, 300), 10_000, 500, deadline_s=900.0)))
    engine = computed(SHAPES["llama70b"], Hardware(GPUS["L40S"], 8))
    row = assess(engine, demand)
    assert row.replicas
    found = tried(engine, demand, row)
    assert found.replicas == 0
    assert found.binds.endswith("take a faster GPU or more TP, or serve it apart from batch")


def test_of_a_large_fleet_a_part_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def look(model: object, replicas: int, demand: Demand, *rest: object) -> object:
        seen.append((replicas, demand.rate))
        return trial(model, replicas, demand, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("headway_planner.trial.trial", look)
    hardware, demand = Hardware(GPUS["A100"], 1), one_class(250, 2000, 60)
    engine = computed(SHAPES["llama8b"], hardware)
    row = assess(engine, demand)
    full = replace(row, classes=tuple(replace(one, ttft_p95_ms=1400.0) for one in row.classes))
    assert tried(engine, demand, full) is full
    assert seen == [(row.replicas // 2, 125)]


def test_a_fleet_that_bursts_overrun_is_not_confirmed_and_a_larger_one_is_found() -> None:
    demand = one_class(2, 2000, 50)
    model = step_model(SHAPES["llama8b"], GPUS["A100"], 1, "nvlink")
    bursts = [Arrival(60.0 * minute, 2000, 50, Rank.INTERACTIVE) for minute in range(5) for _ in range(20)]
    seen = trial(model, 1, demand, bursts, 0)
    assert not seen.confirmed
    larger = enough(model, seen, demand, bursts, 0)
    assert larger is not None
    assert larger.confirmed
    assert larger.replicas > 1
    assert enough(model, seen, Demand((replace(demand.classes[0], ttft_ms=1.0),)), bursts, 0) is None
