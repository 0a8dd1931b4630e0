"""What an engine did for the classes that are planned for, where batch work only fills their slack.

Replicas are ordered for the demand that comes in. In a shared fleet the tokens of batch work are none of it, as long as batch
keeps its own target: they are served by what the better classes leave free. So its counters are taken out of the sample that
the demand is read from. Batch work with a deadline never is any of it, shared fleet or not: it is told to the policy apart
(`deferred.py`). What a step costs is still learnt from all the work that it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headway_operator.core import deferred, histogram
from headway_operator.core.histogram import EMPTY
from headway_operator.core.intake import Reports, intake
from headway_operator.core.memory import Arrived, Counted, LoopMemory
from headway_operator.core.objectives import Judgement
from headway_operator.core.observed import BATCH, EngineSample
from headway_planner.coordinator import Intake


def without_batch(sample: EngineSample) -> EngineSample:
    """The sample of an engine as if no batch request had come to it; figures stay at least 0."""
    batch = sample.classes.get(BATCH)
    if batch is None:
        return sample
    online = 1 - sample.running_batch / sample.num_running if sample.num_running else 1.0
    return replace(
        sample,
        num_running=sample.num_running - sample.running_batch,
        kv_usage=sample.kv_usage * online,  # the cache does not tell whose blocks it holds
        num_waiting=max(0, sample.num_waiting - sample.num_waiting_batch),
        waiting_prompt_tokens=max(0, sample.waiting_prompt_tokens - sample.queued_batch_tokens),
        requests_received=max(0, sample.requests_received - batch.admitted - batch.refused),
        requests_rejected=max(0, sample.requests_rejected - batch.refused),
        requests_finished=max(0, sample.requests_finished - batch.finished),
        queue_full=max(0, sample.queue_full - batch.refused),
        prompt_tokens=max(0, sample.prompt_tokens - batch.prompt_tokens),
        cached_prompt_tokens=max(0, sample.cached_prompt_tokens - batch.cached_prompt_tokens),
        generation_tokens=max(0, sample.generation_tokens - batch.tokens_out),
        ttft=histogram.subtract(sample.ttft, batch.ttft) or EMPTY,
        queue_wait=histogram.subtract(sample.queue_wait, batch.queue_wait) or EMPTY,
        classes={kind: one for kind, one in sample.classes.items() if kind != BATCH},
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """The intake of a pass, and the counters to compare the next one with: of all work, without batch, of that alone."""

    intake: Intake
    engines: Mapping[str, Counted]
    online: Mapping[str, Counted]
    arrived: Arrived


@dataclass(frozen=True, slots=True)
class Apart:
    """Whether batch work is taken out of the demand. `deadline`: it has one, and is never in it."""

    judgement: Judgement | None = None
    deadline: bool = False

    @property
    def counted(self) -> bool:
        """Whether it counts as demand in this pass."""
        return not self.deadline and self.judgement is not None and self.judgement.counts_batch

    @property
    def told_apart(self) -> bool:
        """Whether it may be none of the demand."""
        return self.deadline or (self.judgement is not None and self.judgement.shares_slack)


def take_in(reports: Reports, memory: LoopMemory, desired: int, starts: tuple[float, ...], apart: Apart) -> Taken:
    """What the coordinator takes in: the demand that replicas are ordered for, and what all work showed of the steps."""
    full, engines = intake(reports, memory.engines, memory.totals, desired, starts)
    if not apart.told_apart:
        return Taken(full, engines, {}, Arrived())
    counted = replace(reports, samples=reports.chosen)
    without = {name: without_batch(sample) for name, sample in counted.samples.items()}
    seen, online = intake(replace(counted, samples=without), memory.online, memory.totals, desired, starts)
    # Both are counted in each pass, so that the demand does not jump when batch work comes to count.
    found = full if apart.counted else replace(seen, done=full.done, kv_tokens=full.kv_tokens, stale=full.stale)
    if not apart.deadline:
        return Taken(found, engines, online, Arrived())
    backlog, arrived = deferred.take(counted, memory.arrived)
    return Taken(replace(found, deferred=backlog), engines, online, arrived)
