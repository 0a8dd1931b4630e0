"""What an engine did for the classes that are planned for, where batch work only fills their slack.

Replicas are ordered for the demand that comes in. In a shared fleet the tokens of batch work are none of it, as long as batch
keeps its own target: they are served by what the better classes leave free. So it is taken out of the work that the demand
is read from. Batch work with a deadline never is any of it, shared fleet or not: it is told to the policy apart
(`deferred.py`). What a step costs is still learnt from all the work that it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway_operator.core import deferred
from headway_operator.core.intake import Reports, intake
from headway_operator.core.memory import Arrived, Counted, LoopMemory
from headway_operator.core.objectives import Verdict
from headway_operator.core.work import all_work, batch_work
from headway_planner.coordinator import Intake


@dataclass(frozen=True, slots=True)
class Taken:
    """The intake of a pass, and the counters to compare the next one with: of all work, without batch, of that alone."""

    intake: Intake
    engines: Mapping[str, Counted]
    online: Mapping[str, Counted]
    arrived: Arrived


def take_in(reports: Reports, memory: LoopMemory, verdict: Verdict) -> Taken:
    """What the coordinator takes in: the demand that replicas are ordered for, and what all work showed of the steps."""
    taken = _taken(reports, memory, verdict)
    if not taken.intake.stale:
        return taken
    # Nothing is decided on it. What came meanwhile is in the counters of the engines when they answer again.
    nothing = replace(taken.intake, totals=memory.totals, deferred=None)
    return Taken(nothing, memory.engines, memory.online, memory.arrived)


def _taken(reports: Reports, memory: LoopMemory, verdict: Verdict) -> Taken:
    if not verdict.apart:
        return Taken(*_everything(reports, memory), {}, Arrived())
    targets_ms = reports.targets_ms
    better = {
        name: all_work(sample, targets_ms) - batch_work(sample, targets_ms) for name, sample in reports.chosen.items()
    }
    seen, online = intake(reports, better, memory.online, memory.totals)
    if verdict.deadline:
        backlog, arrived = deferred.take(reports, memory.arrived)
        return Taken(replace(seen, deferred=backlog), {}, online, arrived)
    # Both are counted in each pass, so that the demand does not jump when batch work comes to count.
    full, engines = _everything(reports, memory)
    return Taken(full if verdict.counts_batch else seen, engines, online, Arrived())


def _everything(reports: Reports, memory: LoopMemory) -> tuple[Intake, dict[str, Counted]]:
    """The demand with batch work."""
    every = {name: all_work(sample, reports.targets_ms) for name, sample in reports.chosen.items()}
    return intake(reports, every, memory.engines, memory.totals)
