"""The targets of a rival that were best for a trace in hindsight, by sweep."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from headway_cli.simulate import runs
from headway_cli.simulate.runs import Case, Row
from headway_planner.rivals.catalog import CATALOG
from headway_planner.sim.jobs import Rank

# Share of the requests inside their TTFT target that a tuned rival and the clairvoyant bound must reach.
GOALS = {Rank.REALTIME: 0.995, Rank.INTERACTIVE: 0.999, Rank.BATCH: 1.0}
_BEYOND = 6  # targets past an end of a sweep
_KEPT = ("attainment", "deadlines_met")
SAME = 0.0005  # attainment that counts as equal
TUNED, MATCHED = "tuned", "matched"  # end the names of rivals at targets found in hindsight


class Targets:
    """The targets in hindsight, found at the first seed."""

    def __init__(self) -> None:
        self._ours: Row | None = None
        self._found: dict[str, dict[str, float]] = {}

    def meet(self, ours: Row) -> None:
        """Our row of a seed: the first one is what rivals have to match."""
        self._ours = self._ours or ours

    def best(self, case: Case, policy: str) -> float:
        """The one for the goals."""
        return dict(self.of(case, policy))[TUNED]

    def of(self, case: Case, policy: str) -> Iterable[tuple[str, float]]:
        """By label."""
        if policy not in self._found:
            rows = sweep(case, policy)
            self._found[policy] = mine = {TUNED: best(rows)}
            match = None if self._ours is None else matching(rows, self._ours)
            if match is not None and match != mine[TUNED]:
                mine[MATCHED] = match
        return self._found[policy].items()


def sweep(case: Case, policy: str) -> dict[float, Row]:
    """The rows of each target of the policy's sweep, which goes on past an end as long as that is the best one."""
    found = {target: runs.run(case, policy, target) for target in CATALOG[policy].sweep}
    for _ in range(_BEYOND):
        target = _past_end(found)
        if target is None:
            break
        found[target] = runs.run(case, policy, target)
    return found


def best(found: Mapping[float, Row]) -> float:
    """The target of the fewest hours that meets the goals of all classes, in hindsight; else of the best attainment."""
    return min(found, key=lambda target: _merit(found[target]))


def matching(found: Mapping[float, Row], ours: Row) -> float | None:
    """The target of the fewest hours that is as punctual as our row, deadlines included, whatever the goals; None: there is none."""
    able = [
        target for target, row in found.items() if all(_share(row, name) >= _share(ours, name) - SAME for name in _KEPT)
    ]
    return min(able, key=lambda target: _share(found[target], "gpu_hours"), default=None)


def _share(row: Row, name: str) -> float:
    value = row.get(name, 1.0)
    if not isinstance(value, float):
        raise TypeError("not a row of results")
    return value


def _past_end(found: Mapping[float, Row]) -> float | None:
    """The next target past the end that is the best, as far from it as the one before is; None: the best is inside."""
    now, targets = best(found), sorted(found)
    neighbour = {targets[0]: targets[1], targets[-1]: targets[-2]}.get(now)
    return None if neighbour is None else now * now / neighbour


def best_apart(case: Case, policy: str) -> tuple[float, float]:
    """The best targets of two fleets, online and batch, each by itself."""
    if case.apart is None:
        raise ValueError(f"{case.trace} has nothing to part")
    online, waiting = (best(sweep(replace(case, context=context, apart=None), policy)) for context in case.apart)
    return online, waiting


def meets_goals(row: Row) -> bool:
    """Whether every class has the attainment that is asked for."""
    return not _merit(row)[0]


def _merit(row: Row) -> tuple[bool, float]:
    by_class, hours = row["attainment_by_class"], row["gpu_hours"]
    if not isinstance(by_class, dict) or not isinstance(hours, float):
        raise TypeError("not a row of results")
    feasible = row["feasible_by_class"]
    if not isinstance(feasible, dict):
        raise TypeError("not a row of results")
    kept, due = row.get("deadlines_met"), Rank.BATCH.name.lower()
    # Batch work that has a deadline may wait for its first token.
    goals = {name: GOALS[Rank[name.upper()]] * feasible[name] for name in by_class if kept is None or name != due}
    short = max(
        [goal - by_class[name] for name, goal in goals.items()] + ([1.0 - kept] if isinstance(kept, float) else [])
    )
    return (short > 0, short if short > 0 else hours)
