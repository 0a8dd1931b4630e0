"""What an engine did for the classes that are planned for, where batch work only fills their slack.

Replicas are ordered for the demand that comes in. In a shared fleet the tokens of batch work are none of it, as long as batch
keeps its own target: they are served by what the better classes leave free. So it is taken out of the work that the demand
is read from. Batch work with a deadline never is any of it, shared fleet or not: it is told to the policy apart
(`deferred.py`). What a step costs is still learnt from all the work that it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway_operator.core import deferred
from headway_operator.core.intake import Reports, intake, steps_done
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
    chosen, targets_ms = reports.chosen, reports.targets_ms
    every = {name: all_work(sample, targets_ms) for name, sample in chosen.items()}
    full, engines = intake(reports, every, memory.engines, memory.totals)
    full = replace(full, done=steps_done(engines, memory.engines))
    if full.stale:
        # Nothing is decided on it. What came meanwhile is in the counters of the engines when they answer again.
        return Taken(replace(full, totals=memory.totals), memory.engines, memory.online, memory.arrived)
    if not verdict.apart:
        return Taken(full, engines, {}, Arrived())
    better = {name: every[name] - batch_work(sample, targets_ms) for name, sample in chosen.items()}
    seen, online = intake(reports, better, memory.online, memory.totals)
    # Both are counted in each pass, so that the demand does not jump when batch work comes to count.
    found = full if verdict.counts_batch else replace(seen, done=full.done)
    if not verdict.deadline:
        return Taken(found, engines, online, Arrived())
    backlog, arrived = deferred.take(reports, memory.arrived)
    return Taken(replace(found, deferred=backlog), engines, online, arrived)
