"""Policies on one trace at one start delay, over the seeds: at their defaults, and at the best target in hindsight.

The targets are found for the mean of the first seeds and kept for all: `NAME-tuned` has the one of the fewest hours that meets
the goals, or of the best attainment where none does; `NAME-matched` the one of the fewest hours that is as punctual as ours, where
that is another. The clairvoyant bound always has its best target; where that misses the goal at a seed, it is searched again for
that seed, because a bound that misses the goal bounds nothing.

Where requests with deadlines run beside others, rivals have one fleet for all, two fleets, or are run both ways.
"""

from collections.abc import Iterator
from pathlib import Path

from headway_cli.simulate import runs, targets
from headway_cli.simulate.arguments import Options
from headway_cli.simulate.runs import Case, CaseMaker, Row
from headway_planner.rivals.catalog import CATALOG, CLAIRVOYANT, OURS, WORK_BOUND

SEARCHED = 3  # seeds, at most, over which a target is searched


class Place:
    """A trace at a start delay: where policies are compared. The trace is read once, when the first case is asked for."""

    def __init__(self, trace: Path, start_delay_s: float, options: Options) -> None:
        self.options = options
        self._trace = trace
        self._start_delay_s = start_delay_s
        self._maker: CaseMaker | None = None
        self._kept: dict[int, Case] = {}

    def case(self, seed: int) -> Case:
        """With one seed."""
        if seed in self._kept:
            return self._kept[seed]
        self._maker = self._maker or runs.cases(self._trace, self.options)
        case = self._maker.case(seed, self._start_delay_s)
        if seed in self.options.seeds[:SEARCHED]:
            self._kept[seed] = case
        return case

    def searched(self) -> list[Case]:
        """With the seeds that targets are searched for."""
        return [self.case(seed) for seed in self.options.seeds[:SEARCHED]]


def ours(place: Place) -> Iterator[Row]:
    """Our results, if we run, each as soon as it is there."""
    if OURS in place.options.policies:
        yield from _plain(place, OURS)


def rows(place: Place, policy: str, mine: list[Row]) -> Iterator[Row]:
    """The results of another policy. `mine`: our rows of the same place, to be matched; may be none."""
    if policy == CLAIRVOYANT and place.options.target is None:
        yield from _bound(place)
    elif policy == WORK_BOUND or not CATALOG[policy].rival:
        yield from _plain(place, policy)
    else:
        yield from _rival(place, policy, mine)


def _plain(place: Place, policy: str) -> Iterator[Row]:
    for seed in place.options.seeds:
        yield runs.run(place.case(seed), policy, place.options.target)


def _rival(place: Place, policy: str, mine: list[Row]) -> Iterator[Row]:
    options = place.options
    parts = place.case(options.seeds[0]).apart is not None
    tuned = options.tuned and bool(CATALOG[policy].sweep)
    if not parts or options.batch_fleet != "separate":
        labels = targets.of(place.searched(), policy, mine[:SEARCHED]) if tuned else {}
        for seed in options.seeds:
            case = place.case(seed)
            yield runs.run(case, policy, options.target)
            for label, target in labels.items():
                yield runs.run(case, policy, target, f"{policy}-{label}")
    if parts and options.batch_fleet != "pooled":
        given = None if options.target is None else (options.target, options.target)
        best = targets.best_apart(place.searched(), policy) if tuned else None
        for seed in options.seeds:
            case = place.case(seed)
            yield runs.run_apart(case, policy, given)
            if best is not None:
                yield runs.run_apart(case, policy, best, f"{policy}{runs.SEPARATE}-{targets.TUNED}")


def _bound(place: Place) -> Iterator[Row]:
    target = targets.of(place.searched(), CLAIRVOYANT, ())[targets.TUNED]
    for seed in place.options.seeds:
        case = place.case(seed)
        row = runs.run(case, CLAIRVOYANT, target)
        if not targets.meets_goals(row):
            row = runs.run(case, CLAIRVOYANT, targets.of([case], CLAIRVOYANT, ())[targets.TUNED])
        yield row
