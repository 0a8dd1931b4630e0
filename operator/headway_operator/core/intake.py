"""GetStats samples to what the coordinator takes in: what came and what was done since the pass before.

Counters run since an engine's boot, and pods come and go; so each engine's growth since the last look is added to totals of
the fleet. An engine that is seen for the first time adds nothing, because what it counted may be old; one that restarted adds
all that its new process counted. Engines that do not answer are taken to be like those that do.

Of a large fleet `MOST` engines are counted, always the same ones while they are there, and stand for the others.

An engine counts a prompt when it begins with it, and tells how many prompt tokens still wait. A prompt that is under way is
in both, so the sum of the two is followed by its highest value.

First tokens are counted beside their class's target; in a fleet of one class those of all requests beside the only one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nlargest, nsmallest
from operator import sub
from typing import TypeVar
from zlib import crc32

from headway_operator.core import histogram
from headway_operator.core.memory import Counted
from headway_operator.core.observed import ClassSample, EngineSample, PodView
from headway_planner.budget import FirstTokens
from headway_planner.coordinator import Intake, Totals
from headway_planner.identify import StepsDone

_Number = TypeVar("_Number", int, float)

MOST = 512
EVERY = ""
STARTS = 20  # newest starts that the start time is taken from


@dataclass(frozen=True)
class Reports:
    """The engines that answer.

    Attributes:
        serving: pods that should.
        samples: the latest per pod name, sound ones only.
        targets_ms: of the time to first token by class; `EVERY`: of a fleet of one class. Empty: there is no objective.
    """

    serving: int
    samples: Mapping[str, EngineSample]
    targets_ms: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def chosen(self) -> Mapping[str, EngineSample]:
        """At most `MOST` of the samples, by a checksum of the name: a pod that comes or goes changes one, not all."""
        if len(self.samples) <= MOST:
            return self.samples
        return {
            name: self.samples[name] for name in nsmallest(MOST, self.samples, key=lambda name: crc32(name.encode()))
        }


def intake(
    reports: Reports, before: Mapping[str, Counted], totals: Totals, desired: int, starts: tuple[float, ...]
) -> tuple[Intake, dict[str, Counted]]:
    """The intake of this pass, and the counters to compare the next one with."""
    chosen = reports.chosen
    share = reports.serving / len(chosen) if chosen else 1.0
    counted = {name: _counted(sample, before.get(name), reports.targets_ms) for name, sample in chosen.items()}
    grown: list[tuple[int, ...]] = []
    first: list[tuple[float, ...]] = []
    done: list[StepsDone] = []
    for name, now in counted.items():
        then = before.get(name)
        if then is None or now.taken_s == then.taken_s:
            continue
        growth = _growth_of(_work, now, then)
        grown.append(growth)
        first.append(_growth_of(_first_tokens, now, then))
        if growth[5] > 0 and min(growth) >= 0:
            done.append(
                StepsDone(growth[5], growth[4], growth[6], now.step_ms - (then.step_ms if _same(now, then) else 0))
            )
    sums = [share * max(0, sum(column)) for column in zip(*grown, strict=True)] or [0.0] * 7
    answered, late, queued = [share * max(0.0, sum(column)) for column in zip(*first, strict=True)] or [0.0] * 3
    samples = chosen.values()
    found = Intake(
        at_s=max((sample.taken_s for sample in samples), default=0.0),
        desired=desired,
        serving=reports.serving,
        totals=Totals(
            arrivals=totals.arrivals + sums[0],
            refused=totals.refused + sums[1],
            input_tokens=totals.input_tokens + sums[2],
            finished=totals.finished + sums[3],
            output_tokens=totals.output_tokens + sums[4],
            first=FirstTokens(totals.first.answered + answered, totals.first.late + late, totals.first.queued + queued),
        ),
        running=share * sum(sample.num_running for sample in samples),
        waiting=share * sum(sample.num_waiting for sample in samples),
        queued_tokens=share * sum(sample.waiting_prompt_tokens for sample in samples),
        stale=2 * len(reports.samples) < reports.serving or not reports.samples,
        kv_tokens=max((sample.kv_tokens for sample in samples), default=0),
        kv_used=share * sum(sample.kv_usage * sample.kv_tokens for sample in samples),
        done=tuple(done),
        starts=starts,
    )
    return found, counted


def start_times(serving: Iterable[PodView]) -> tuple[float, ...]:
    """Seconds from creation to service of the serving pods that never restarted, newest last."""
    known = (
        (pod.ready_since, pod.created)
        for pod in serving
        if pod.ready_since is not None and pod.container is not None and not pod.container.restart_count
    )
    newest = nlargest(STARTS, known)
    return tuple(max(0.0, (ready - created).total_seconds()) for ready, created in reversed(newest))


def _counted(sample: EngineSample, before: Counted | None, targets_ms: Mapping[str, float]) -> Counted:
    if before is not None and before.taken_s == sample.taken_s and before.boot_id == sample.boot_id:
        return before
    taken = sample.prompt_tokens - sample.cached_prompt_tokens + sample.waiting_prompt_tokens
    if before is not None and before.boot_id == sample.boot_id:
        taken = max(taken, before.taken)
    return Counted(
        boot_id=sample.boot_id,
        taken_s=sample.taken_s,
        received=sample.arrivals,
        refused=sample.queue_full,
        taken=taken,
        computed=sample.prompt_tokens - sample.cached_prompt_tokens,
        finished=sample.requests_finished,
        output=sample.generation_tokens,
        steps=sample.steps,
        step_ms=sample.step_sum_ms,
        first=_first(sample, targets_ms),
    )


def _first(sample: EngineSample, targets_ms: Mapping[str, float]) -> FirstTokens:
    answered = late = queued = 0.0
    for kind, target_ms in targets_ms.items():
        counts = sample if kind == EVERY else sample.classes.get(kind, ClassSample())
        answered += histogram.count(counts.ttft)
        late += histogram.above(counts.ttft, target_ms)
        queued += histogram.above(counts.queue_wait, target_ms / 2)
    return FirstTokens(answered, late, queued)


def _same(now: Counted, then: Counted) -> bool:
    return now.boot_id == then.boot_id


def _growth_of(counters: Callable[[Counted], tuple[_Number, ...]], now: Counted, then: Counted) -> tuple[_Number, ...]:
    after = counters(now)
    return after if not _same(now, then) else tuple(map(sub, after, counters(then)))


def _work(one: Counted) -> tuple[int, ...]:
    """Requests received and refused, prompt tokens in, requests finished, tokens out, steps, prompt tokens computed."""
    return (one.received, one.refused, one.taken, one.finished, one.output, one.steps, one.computed)


def _first_tokens(one: Counted) -> tuple[float, ...]:
    return (one.first.answered, one.first.late, one.first.queued)
