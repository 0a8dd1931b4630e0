"""A trace made larger or smaller, or joined by batch work, seeded.

Larger: every request is joined by copies of requests near it in the trace, each shifted by up to `spread_s` to either side.
Bursts longer than the spread stay coherent, which is harder on a policy than as many independent users. Smaller: requests
are dropped at random. Batch work: requests of given lengths at random times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway_planner.sim.chance import Chance
from headway_planner.sim.jobs import Arrival, Rank

_NEAR = 100  # a copy takes the lengths of a request this many places away at the most


def scaled(arrivals: Sequence[Arrival], factor: float, spread_s: float, chance: Chance) -> list[Arrival]:
    """About `factor` times the arrivals, sorted by time and inside the span of the originals."""
    if not arrivals or factor == 1:
        return list(arrivals)
    end_s = arrivals[-1].at_s
    found: list[Arrival] = []
    whole = int(factor)
    for position, arrival in enumerate(arrivals):
        copies = whole + (chance.uniform() < factor - whole)
        if copies and whole:
            found.append(arrival)
            copies -= 1
        for _ in range(copies):
            twin = arrivals[min(max(position + chance.below(2 * _NEAR + 1) - _NEAR, 0), len(arrivals) - 1)]
            at_s = arrival.at_s + spread_s * (2 * chance.uniform() - 1) if whole else arrival.at_s
            found.append(Arrival(_inside(at_s, end_s), twin.inputs, twin.outputs, arrival.rank, arrival.deadline_s))
    found.sort(key=lambda one: one.at_s)
    return found


@dataclass(frozen=True, slots=True)
class BatchWork:
    """Batch work to add: pairs of prompt and answer to draw from, what a pair costs, how much in all, and its deadline."""

    lengths: Sequence[tuple[int, int]]
    cost: Callable[[int, int], float]
    total: float
    deadline_s: float


def joined_by(arrivals: Sequence[Arrival], batch: BatchWork, chance: Chance) -> list[Arrival]:
    """The arrivals and batch requests of about the given cost, each at a random time of their span, sorted by time."""
    end_s = arrivals[-1].at_s if arrivals else 0.0
    found, cost = list(arrivals), 0.0
    while cost < batch.total:
        inputs, outputs = batch.lengths[chance.below(len(batch.lengths))]
        found.append(Arrival(end_s * chance.uniform(), inputs, outputs, Rank.BATCH, batch.deadline_s))
        cost += batch.cost(inputs, outputs)
    found.sort(key=lambda one: one.at_s)
    return found


def _inside(at_s: float, end_s: float) -> float:
    """Mirrored at both ends, so that no copies pile up there."""
    at_s = abs(at_s)
    return max(0.0, 2 * end_s - at_s) if at_s > end_s else at_s
