"""The advisor's estimates beside the simulator: `python benchmarks/plan_accuracy.py [SEED]`.

Four loads on every configuration that can serve them, the advised count each, Poisson arrivals of the mean lengths. Prints a JSON
line a configuration (estimate over simulation less 1, in percent, for each class and for the gaps), then one over all.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from headway_planner.advisor import assess, computed
from headway_planner.capacity import Mix
from headway_planner.offer import ClassDemand, Demand, Hardware
from headway_planner.roofline import GPUS, SHAPES
from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, Rank
from headway_planner.trial import poisson, trial, tried

DEADLINE_S = 900.0  # of batch work, as `headway plan` has it beside others
LOADS = {
    "chat": ((Rank.INTERACTIVE, 20, 1000, 200),),
    "short": ((Rank.INTERACTIVE, 40, 300, 150),),
    "long": ((Rank.INTERACTIVE, 4, 4000, 400),),
    "mix": ((Rank.REALTIME, 5, 300, 150), (Rank.INTERACTIVE, 20, 1000, 200), (Rank.BATCH, 2, 4000, 800)),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """One configuration: by how many percent the estimates are off, and whether the simulation confirms the count.

    `estimated`: the count of the formula, where a short trial raised it; else 0.
    """

    load: str
    model: str
    gpu: str
    tp: int
    replicas: int
    estimated: int
    ttft: tuple[float, ...]
    itl: float
    confirmed: bool


def compared(seed: int) -> Iterator[Compared]:
    """Every configuration that can serve a load."""
    for load, classes in LOADS.items():
        demand = Demand(tuple(_class(*one) for one in classes))
        for model in ("llama8b", "llama70b"):
            for gpu in GPUS.values():
                for tp in (1, 2, 4, 8):
                    found = computed(SHAPES[model], Hardware(gpu, tp))
                    row = tried(found, demand, assess(found, demand))
                    if not row.replicas or row.itl_p95_ms is None:
                        continue
                    seen = trial(found.model, row.replicas, demand, poisson(demand, seed), seed)
                    pairs = zip(row.classes, seen.classes, strict=True)
                    # What waits for slack has no estimate.
                    ttft = tuple(_off(one.ttft_p95_ms, seen.ttft_p95_ms) for one, seen in pairs if one.ttft_p95_ms)
                    itl = _off(row.itl_p95_ms, seen.itl_p95_ms)
                    yield Compared(load, model, gpu.name, tp, row.replicas, row.estimated, ttft, itl, seen.confirmed)


def main() -> None:
    """Compare and print."""
    found = []
    for one in compared(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        found.append(one)
        print(json.dumps({name: getattr(one, name) for name in Compared.__slots__}), flush=True)
    summary: dict[str, object] = {
        "configurations": len(found),
        "not_confirmed": sum(not one.confirmed for one in found),
        "raised": sum(one.estimated > 0 for one in found),
        "gpus": sum(one.tp * one.replicas for one in found),
    }
    for name, values in (("ttft", [off for one in found for off in one.ttft]), ("itl", [one.itl for one in found])):
        summary[name] = [min(values), round(statistics.median(values), 1), max(values)]
    print(json.dumps(summary))


def _class(rank: Rank, rate: float, inputs: int, outputs: int) -> ClassDemand:
    deadline_s = DEADLINE_S if rank is Rank.BATCH else math.inf
    mix = Mix(inputs, outputs)
    return ClassDemand(rank.name.lower(), rate, mix, TTFT_TARGET_MS[rank], ITL_TARGET_MS[rank], deadline_s=deadline_s)


def _off(estimated: float, seen: float | None) -> float:
    return round(100 * (estimated / seen - 1), 1) if seen else 0.0


if __name__ == "__main__":
    main()
