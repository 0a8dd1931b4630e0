"""How many requests a minute the simulator takes through a fleet, on one core: the goal is a million.

Each trace is multiplied to at least `--load` replicas of work, as `headway simulate` does it, and goes through a fixed fleet that has the
work of its busiest minute (`static`), and through ours with its policy's decisions (`headway`). Prints one JSON line for each
with the CPU seconds of this process, which other work on the machine does not change much; `over_goal` > 1 is faster.
Usage: `python benchmarks/bench_simulator.py TRACE... [--class interactive] [--load 4] [--engine NAME]`.
"""

import argparse
import json
import math
import time
from pathlib import Path

from headway_cli.simulate import arguments, runs
from headway_planner.rivals.catalog import CATALOG
from headway_planner.sim.fleet import simulate

GOAL = 1_000_000  # requests a minute
START_DELAY_S = 100.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="+")
    own, others = parser.parse_known_args()
    given = argparse.ArgumentParser()
    arguments.add(given)
    for trace in own.traces:
        options = arguments.parse(given.parse_args([trace, *others]))
        case = runs.cases(Path(trace), options).case(0, START_DELAY_S)
        setup, arrivals = case.context.setup, case.context.arrivals
        for policy, target in (("static", math.ceil(setup.max_replicas / 4)), ("headway", 0.0)):
            made = CATALOG[policy].make(case.context, target)
            began = time.process_time()
            outcome = simulate(setup, arrivals, made, 0)
            seconds = time.process_time() - began
            rate = 60 * len(arrivals) / seconds
            line = {"trace": case.trace, "policy": policy, "engine": setup.model.name, "requests": len(arrivals)}
            line |= {"replicas_mean": round(outcome.replicas_mean, 2), "cpu_s": round(seconds, 2)}
            print(json.dumps(line | {"requests_a_minute": round(rate), "over_goal": round(rate / GOAL, 2)}), flush=True)


if __name__ == "__main__":
    main()
