"""Batch work added to a trace: a share of all work, with the lengths of real batch-like traffic, drawn by the seed."""

import csv
from collections.abc import Sequence
from pathlib import Path

from headway_planner.rivals.bounds import work_s
from headway_planner.sim.arrivals import BatchWork, joined_by
from headway_planner.sim.chance import Chance
from headway_planner.sim.jobs import Arrival
from headway_planner.steps import StepModel

_LENGTHS = Path(__file__).parent / "data" / "batch_lengths.csv"


def added(
    arrivals: Sequence[Arrival], share: float, deadline_s: float, model: StepModel, chance: Chance
) -> list[Arrival]:
    """The arrivals and batch requests that are `share` of the work of both together, each due `deadline_s` after it came."""
    total = work_s(model, arrivals) * share / (1 - share)

    def cost(inputs: int, outputs: int) -> float:
        return model.least_work_ms(inputs, outputs) / 1000

    return joined_by(arrivals, BatchWork(_lengths(), cost, total, deadline_s), chance)


def _lengths() -> list[tuple[int, int]]:
    lines = (line for line in _LENGTHS.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return [(int(row["input_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(lines)]
