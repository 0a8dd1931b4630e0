"""One trace at one start delay: every policy at its defaults, and at the best target in hindsight, over the seeds.

The target is found at the first seed and kept for the others: `NAME-tuned` has the one of the fewest hours that meets the goals,
or of the best attainment where none does; `NAME-matched` the one of the fewest hours that is as punctual as ours, where that is
another. The clairvoyant bound always has its best target; where the one kept misses the goal at another seed, it is searched
again, because a bound that misses the goal bounds nothing.

Where requests with deadlines run beside others, rivals have one fleet for all, two fleets, or are run both ways.
"""

from collections.abc import Iterator
from pathlib import Path

from headway_cli.simulate import runs, targets
from headway_cli.simulate.arguments import Options
from headway_cli.simulate.runs import Case, Row
from headway_cli.simulate.targets import Targets
from headway_planner.rivals.catalog import CATALOG, CLAIRVOYANT, OURS, WORK_BOUND

Part = tuple[Path, float, Options]


def rows(part: Part) -> Iterator[Row]:
    """The results, each as soon as it is there."""
    path, delay_s, options = part
    maker = runs.cases(path, options)
    hindsight = Targets()
    best_apart: dict[str, tuple[float, float]] = {}
    for seed in options.seeds:
        case = maker.case(seed, delay_s)
        for policy in options.policies:
            if policy == CLAIRVOYANT and options.target is None:
                yield _bound(case, hindsight)
                continue
            rival = policy != WORK_BOUND and CATALOG[policy].rival
            tuned = options.tuned and rival and bool(CATALOG[policy].sweep)
            if not rival or case.apart is None or options.batch_fleet != "separate":
                row = runs.run(case, policy, options.target)
                yield row
                if tuned:
                    for label, target in hindsight.of(case, policy):
                        yield runs.run(case, policy, target, f"{policy}-{label}")
                elif policy == OURS:
                    hindsight.meet(row)
            if rival and case.apart is not None and options.batch_fleet != "pooled":
                yield from _apart(case, policy, options, best_apart if tuned else None)


def _apart(case: Case, policy: str, options: Options, best: dict[str, tuple[float, float]] | None) -> Iterator[Row]:
    """The policy with a batch fleet of its own; at its best targets too unless `best` is None."""
    yield runs.run_apart(case, policy, None if options.target is None else (options.target, options.target))
    if best is not None:
        if policy not in best:
            best[policy] = targets.best_apart(case, policy)
        yield runs.run_apart(case, policy, best[policy], f"{policy}{runs.SEPARATE}-{targets.TUNED}")


def all_rows(part: Part) -> list[Row]:
    """The results at once, for a process of its own."""
    return list(rows(part))


def _bound(case: Case, hindsight: Targets) -> Row:
    row = runs.run(case, CLAIRVOYANT, hindsight.best(case, CLAIRVOYANT))
    if targets.meets_goals(row):
        return row
    return runs.run(case, CLAIRVOYANT, targets.best(targets.sweep(case, CLAIRVOYANT)))
