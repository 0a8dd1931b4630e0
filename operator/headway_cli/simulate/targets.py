"""The targets of a rival that were best for a trace in hindsight: by sweep, and finer beside the best one.

Judged are means over seeds, because starts of one seed can all be slow: what is best for it alone is luck.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from headway_cli.simulate import runs
from headway_cli.simulate.runs import Case, Row
from headway_planner.rivals.catalog import CATALOG
from headway_planner.sim.jobs import Rank

# Share of the requests inside their TTFT target that a tuned rival and the clairvoyant bound must reach.
GOALS = {Rank.REALTIME: 0.995, Rank.INTERACTIVE: 0.999, Rank.BATCH: 1.0}
_BEYOND = 6  # targets past an end of a sweep
_HALVINGS = 2  # of the way from a chosen target to its cheaper neighbour, which is not good enough
SAME = 0.0005  # attainment that counts as equal
TUNED, MATCHED = "tuned", "matched"  # end the names of rivals at targets found in hindsight

Found = dict[float, Row]  # means over the seeds, by target
Choice = Callable[[Mapping[float, Row]], float | None]


def of(cases: Sequence[Case], policy: str, ours: Sequence[Row]) -> dict[str, float]:
    """By label, the best targets for one trace at these seeds. `ours`: our rows at them, to be matched; may be none."""
    found = sweep(cases, policy)
    labels = {TUNED: _finer(cases, policy, found, best)}
    if ours:
        wanted = average(ours)
        match = _finer(cases, policy, found, lambda rows: matching(rows, wanted))
        if match is not None and match != labels[TUNED]:
            labels[MATCHED] = match
    return {label: target for label, target in labels.items() if target is not None}


def sweep(cases: Sequence[Case], policy: str) -> Found:
    """The rows of each target of the policy's sweep, which goes on past an end as long as that is the best one."""
    found = {target: _tried(cases, policy, target) for target in CATALOG[policy].sweep}
    for _ in range(_BEYOND):
        target = _past_end(found)
        if target is None:
            break
        found[target] = _tried(cases, policy, target)
    return found


def best(found: Mapping[float, Row]) -> float:
    """The target of the fewest hours that meets the goals of all classes, in hindsight; else of the best attainment."""
    return min(found, key=lambda target: _merit(found[target]))


def matching(found: Mapping[float, Row], ours: Row) -> float | None:
    """The target of the fewest hours that is as punctual as our row, deadlines included, whatever the goals; None: there is none."""
    able = [
        target
        for target, row in found.items()
        if _share(row, "attainment") >= _share(ours, "attainment") - SAME and _kept(row) >= _kept(ours) - SAME
    ]
    return min(able, key=lambda target: _share(found[target], "gpu_hours"), default=None)


def best_apart(cases: Sequence[Case], policy: str) -> tuple[float, float]:
    """The best targets of two fleets, online and batch, each by itself.

    Raises:
        ValueError: there is nothing to part.
    """
    online, waiting = (of(_alone(cases, fleet), policy, ())[TUNED] for fleet in (0, 1))
    return online, waiting


def meets_goals(row: Row) -> bool:
    """Whether every class has the attainment that is asked for."""
    return not _merit(row)[0]


def average(rows: Sequence[Row]) -> Row:
    """The means of what targets are judged by, over rows of several seeds."""
    first = rows[0]
    shares = [name for name in ("attainment", "gpu_hours", "deadlines_met") if name in first]
    by_class = ("attainment_by_class", "feasible_by_class")
    return {
        **{name: mean(_share(row, name) for row in rows) for name in shares},
        **{
            name: {one: mean(_shares(row, name)[one] for row in rows) for one in _shares(first, name)}
            for name in by_class
        },
    }


def _alone(cases: Sequence[Case], fleet: int) -> list[Case]:
    found = []
    for case in cases:
        if case.apart is None:
            raise ValueError(f"{case.trace} has nothing to part")
        found.append(replace(case, context=case.apart[fleet], apart=None))
    return found


def _tried(cases: Sequence[Case], policy: str, target: float) -> Row:
    return average([runs.run(case, policy, target) for case in cases])


def _past_end(found: Mapping[float, Row]) -> float | None:
    """The next target past the end that is the best, as far from it as the one before is; None: the best is inside."""
    now, targets = best(found), sorted(found)
    neighbour = {targets[0]: targets[1], targets[-1]: targets[-2]}.get(now)
    return None if neighbour is None else now * now / neighbour


def _finer(cases: Sequence[Case], policy: str, found: Found, choose: Choice) -> float | None:
    """The chosen target, after some between it and its cheaper neighbour were added to those that were found."""
    for _ in range(_HALVINGS):
        now = choose(found)
        if now is None or (cheaper := _cheaper(found, now)) is None:
            break
        between = math.sqrt(now * cheaper)
        found[between] = _tried(cases, policy, between)
    return choose(found)


def _cheaper(found: Mapping[float, Row], now: float) -> float | None:
    """The one of the two targets beside it that takes fewer hours."""
    targets = sorted(found)
    place = targets.index(now)
    beside = targets[max(0, place - 1) : place] + targets[place + 1 : place + 2]
    hours = {target: _share(found[target], "gpu_hours") for target in beside}
    least = min(hours, key=lambda target: hours[target], default=None)
    return least if least is not None and hours[least] < _share(found[now], "gpu_hours") else None


def _kept(row: Row) -> float:
    return _share(row, "deadlines_met") if "deadlines_met" in row else 1.0


def _share(row: Row, name: str) -> float:
    value = row[name]
    if not isinstance(value, float):
        raise TypeError("not a row of results")
    return value


def _shares(row: Row, name: str) -> dict[str, float]:
    value = row[name]
    if not isinstance(value, dict):
        raise TypeError("not a row of results")
    return value


def _merit(row: Row) -> tuple[bool, float]:
    by_class, feasible = _shares(row, "attainment_by_class"), _shares(row, "feasible_by_class")
    due = Rank.BATCH.name.lower() if "deadlines_met" in row else ""
    # Batch work that has a deadline may wait for its first token.
    short = max(
        [GOALS[Rank[name.upper()]] * feasible[name] - share for name, share in by_class.items() if name != due]
        + ([1.0 - _kept(row)] if due else [])
    )
    return (short > 0, short if short > 0 else _share(row, "gpu_hours"))
