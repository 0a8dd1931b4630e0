"""How long one decision takes: `decide` over a fleet of many busy replicas, pass after pass with new samples.

The fleet is the one of the unit tests: pods and engines in memory, here with the histograms of a minute under load. Each
pass gets a new sample of every engine, as the operator's poll delivers it, and the memory of the pass before. Prints one JSON
object with the seconds of process time per pass. The collector has the operator's thresholds; `max_s` holds its full runs, over the
samples of all engines, if there are any.
Usage: `python benchmarks/bench_decide.py [--replicas 5000] [--passes 20] [--classes [2 | 3]]`; `--classes`, or 2: half of the
requests are batch work with a deadline; 3: and there are as many of class realtime.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

from fleet_world import World, spec  # noqa: E402  the tests' support is no package

from headway_operator.__main__ import COLLECTOR  # noqa: E402
from headway_operator.api.v1alpha1 import LimitValues, LLMDeployment, baseline_limits  # noqa: E402
from headway_operator.core.decide import decide  # noqa: E402
from headway_operator.core.observed import ClassSample, EngineSample  # noqa: E402
from headway_operator.core.plan import LimitsPatch  # noqa: E402
from headway_operator.core.tuning import patch  # noqa: E402

WINDOW_S = 60
LEASE_S = 600.0  # left of it: none is about to end
OTHERS: list[dict[str, object]] = [
    {"workloadClass": "batch", "deadlineSeconds": 3600},
    {"workloadClass": "realtime"},
]  # classes beside interactive


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--classes", type=int, choices=(1, 2, 3), nargs="?", const=2, default=1)
    options = parser.parse_args()
    gc.set_threshold(*COLLECTOR)
    world = fleet(options.replicas, OTHERS[: options.classes - 1])
    chance = random.Random(1)  # noqa: S311  a load, no secret
    limits = tuned(world)
    for name in world.samples:
        world.samples[name] = [loaded(world, name, chance, age_s, limits) for age_s in range(WINDOW_S + 5, 0, -1)]
    seconds = []
    for _ in range(options.passes):
        world.now_s += 2
        limits = tuned(world)
        for name, series in world.samples.items():
            series.append(loaded(world, name, chance, 0, limits))
            del series[0]
        observed = world.observe()
        began = time.process_time()
        plan = decide(observed)
        seconds.append(time.process_time() - began)
        world.memory = plan.memory
        for action in plan.actions:
            if type(action).__name__ == "WriteStatus":
                world.apply(action)
    row = {
        "replicas": len(world.ready()),
        "passes": options.passes,
        "median_s": round(statistics.median(seconds), 4),
        "max_s": round(max(seconds), 4),
        "reason": world.status["scaling"]["reason"],
    }
    print(json.dumps(row))


def fleet(replicas: int, others: list[dict[str, object]]) -> World:
    """A settled fleet of so many replicas, in modes Auto and Auto. `others`: objectives of classes beside interactive."""
    scaling = {"mode": "Auto", "minReplicas": replicas, "maxReplicas": 10_000}
    slo = {"workloadClass": "interactive", "windowSeconds": WINDOW_S, **({"classes": others} if others else {})}
    world = World(spec(slo=slo, scaling=scaling, tuning={"mode": "Auto"}), boot_s=1)
    for _ in range(6):
        world.step(1.0)
    world.manifest["status"]["scaling"]["desiredReplicas"] = replicas
    for _ in range(4):
        world.step(1.0)
    return world


def tuned(world: World) -> tuple[LimitsPatch, LimitsPatch]:
    """The limits that the operator asked for, and the spec's: what engines say that have taken both."""
    effective = LimitValues.model_validate(world.status["tuning"]["effective"])
    return patch(effective), patch(baseline_limits(LLMDeployment.model_validate(world.manifest).spec))


def loaded(
    world: World, name: str, chance: random.Random, age_s: float, limits: tuple[LimitsPatch, LimitsPatch]
) -> EngineSample:
    """A sample of an engine that has served two requests a second since long ago. `limits`: effective, baseline."""
    at_s = 1000.0 + world.now_s - age_s
    count = int(at_s)
    histogram = tuple(count * (1 + bucket % 7) for bucket in range(90))
    one = ClassSample(
        histogram, histogram, histogram, admitted=count, finished=count, prompt_tokens_admitted=100 * count
    )
    others = world.manifest["spec"]["slo"].get("classes", [])
    more = {other["workloadClass"]: replace(one, admitted=count + 7) for other in others}
    return replace(
        world.samples[name][-1],
        taken_s=at_s,
        num_running=chance.randint(1, 4),
        requests_received=2 * count,
        requests_finished=2 * count,
        prompt_tokens=200 * count,
        generation_tokens=100 * count + chance.randint(0, 9),
        steps=40 * count,
        step_sum_ms=900.0 * count,
        kv_tokens=100_000,
        effective=limits[0],
        baseline=limits[1],
        lease_remaining_s=LEASE_S,
        ttft=histogram,
        queue_wait=histogram,
        prefill=histogram,
        itl=histogram,
        step=histogram,
        classes={"interactive": one, **more} if more else {},
    )


if __name__ == "__main__":
    main()
