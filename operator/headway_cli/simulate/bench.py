"""One trace at one start delay: every policy at its defaults, and at the best target in hindsight, over the seeds.

The target is found at the first seed and kept for the others. The clairvoyant bound always has its best target; where the one
kept misses the goal at another seed, it is searched again, because a bound that misses the goal bounds nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from headway_cli.simulate import runs
from headway_cli.simulate.arguments import Options
from headway_cli.simulate.runs import Case, Row
from headway_planner.rivals.catalog import CATALOG, CLAIRVOYANT, WORK_BOUND

Part = tuple[Path, float, Options]


def rows(part: Part) -> Iterator[Row]:
    """The results, each as soon as it is there."""
    path, delay_s, options = part
    maker = runs.cases(path, options)
    best: dict[str, float] = {}
    for seed in options.seeds:
        case = maker.case(seed, delay_s)
        for policy in options.policies:
            if policy == CLAIRVOYANT and options.target is None:
                yield _bound(case, best)
            else:
                yield runs.run(case, policy, options.target)
            if options.tuned and policy != WORK_BOUND and CATALOG[policy].rival and CATALOG[policy].sweep:
                yield runs.run(case, policy, _best(case, policy, best), f"{policy}-tuned")


def all_rows(part: Part) -> list[Row]:
    """The results at once, for a process of its own."""
    return list(rows(part))


def _best(case: Case, policy: str, best: dict[str, float]) -> float:
    if policy not in best:
        best[policy] = runs.best_target(case, policy)
    return best[policy]


def _bound(case: Case, best: dict[str, float]) -> Row:
    row = runs.run(case, CLAIRVOYANT, _best(case, CLAIRVOYANT, best))
    if runs.meets_goals(row):
        return row
    return runs.run(case, CLAIRVOYANT, runs.best_target(case, CLAIRVOYANT))
