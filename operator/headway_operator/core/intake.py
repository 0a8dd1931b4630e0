"""GetStats samples to what the coordinator takes in: what came and what was done since the pass before.

Counters run since an engine's boot, and pods come and go; so each engine's growth since the last look is added to totals of
the fleet. An engine that is seen for the first time adds nothing, because what it counted may be old; one that restarted adds
all that its new process counted. Engines that do not answer are taken to be like those that do; while most of them are silent
nothing is counted (`online.py`).

Of a large fleet `COUNTED` engines are counted, always the same ones while they are there, and stand for the others.

What the prefix cache held of a prompt is known when the engine begins with it, after the prompt was counted; so the difference
is followed by its highest value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nlargest, nsmallest
from operator import sub
from typing import TypeVar
from zlib import crc32

from headway_operator.core.memory import Counted
from headway_operator.core.observed import EngineSample, Observed, PodView
from headway_operator.core.work import Work
from headway_planner.budget import FirstTokens
from headway_planner.coordinator import Intake, Totals
from headway_planner.identify import StepsDone

_Number = TypeVar("_Number", int, float)

COUNTED = 512  # engines at most whose counters are taken
STARTS = 20  # newest starts that the start time is taken from


@dataclass(frozen=True)
class Reports:
    """The engines that answer, and what is known of the fleet beside them.

    Attributes:
        serving: pods that should.
        samples: the latest per pod name, sound ones only.
        targets_ms: of the time to first token by class; `EVERY`: of a fleet of one class. Empty: there is no objective.
        desired: replicas that are wanted.
        starts: seconds that the newest starts took, newest last.
        silent: serving pods that do not answer.
    """

    serving: int
    samples: Mapping[str, EngineSample]
    targets_ms: Mapping[str, float] = field(default_factory=dict)
    desired: int = 1
    starts: tuple[float, ...] = ()
    silent: tuple[str, ...] = ()

    @cached_property
    def chosen(self) -> Mapping[str, EngineSample]:
        """At most `COUNTED` of the samples, by a checksum of the name: a pod that comes or goes changes one, not all."""
        if len(self.samples) <= COUNTED:
            return self.samples
        return {
            name: self.samples[name] for name in nsmallest(COUNTED, self.samples, key=lambda name: crc32(name.encode()))
        }


def intake(
    reports: Reports, work: Mapping[str, Work], before: Mapping[str, Counted], totals: Totals
) -> tuple[Intake, dict[str, Counted]]:
    """The demand of this pass, and the counters to compare the next one with. `work`: of each chosen engine."""
    chosen = reports.chosen
    share = reports.serving / len(chosen) if chosen else 1.0
    counted = {name: _counted(sample, work[name], before.get(name)) for name, sample in chosen.items()}
    grown = [_growth(_requests, now, then) for now, then in _again(counted, before)]
    sums = [share * max(0.0, sum(column)) for column in zip(*grown, strict=True)] or [0.0] * 8
    samples, parts = chosen.values(), work.values()
    found = Intake(
        at_s=max((sample.taken_s for sample in samples), default=0.0),
        desired=reports.desired,
        serving=reports.serving,
        totals=Totals(
            arrivals=totals.arrivals + sums[0],
            refused=totals.refused + sums[1],
            input_tokens=totals.input_tokens + sums[2],
            finished=totals.finished + sums[3],
            output_tokens=totals.output_tokens + sums[4],
            first=FirstTokens(
                totals.first.answered + sums[5], totals.first.late + sums[6], totals.first.queued + sums[7]
            ),
        ),
        running=share * sum(part.running for part in parts),
        waiting=share * sum(part.waiting for part in parts),
        queued_tokens=share * sum(part.queued_tokens for part in parts),
        stale=2 * len(reports.samples) < reports.serving or not reports.samples,
        kv_tokens=max((sample.kv_tokens for sample in samples), default=0),
        kv_used=share * sum(part.kv_used for part in parts),
        done=_steps_done(counted, before),
        starts=reports.starts,
    )
    return found, counted


def _steps_done(counted: Mapping[str, Counted], before: Mapping[str, Counted]) -> tuple[StepsDone, ...]:
    """What the steps of each engine did between two looks, and how long they took; nothing of one that contradicts itself."""
    pairs = ((now, then, _growth(_steps, now, then)) for now, then in _again(counted, before))
    return tuple(
        StepsDone(steps, output, computed, now.step_ms - (then.step_ms if _same(now, then) else 0))
        for now, then, (steps, output, computed) in pairs
        if steps > 0 and output >= 0 and computed >= 0
    )


def lost_pods(observed: Observed) -> frozenset[str]:
    """Uids of the pods that are lost, or were in a pass of this process."""
    before = observed.memory.lost if observed.memory is not None else frozenset()
    return frozenset(pod.uid for pod in observed.pods if pod.lost_since is not None or pod.uid in before)


def start_times(serving: Iterable[PodView], lost: frozenset[str]) -> tuple[float, ...]:
    """Seconds from creation to service of the serving pods that never restarted nor were `lost`, newest last."""
    known = (
        (pod.ready_since, pod.created)
        for pod in serving
        if pod.ready_since is not None
        and pod.container is not None
        and not pod.container.restart_count
        and pod.uid not in lost
    )
    newest = nlargest(STARTS, known)
    return tuple(max(0.0, (ready - created).total_seconds()) for ready, created in reversed(newest))


def _counted(sample: EngineSample, work: Work, before: Counted | None) -> Counted:
    same = before is not None and before.boot_id == sample.boot_id
    if before is not None and same and before.taken_s == sample.taken_s:
        return before
    return Counted(
        boot_id=sample.boot_id,
        taken_s=sample.taken_s,
        received=work.received,
        refused=work.refused,
        taken=max(work.taken, before.taken) if before is not None and same else work.taken,
        finished=work.finished,
        output=work.output,
        steps=sample.steps,
        step_ms=sample.step_sum_ms,
        computed=sample.prompt_tokens - sample.cached_prompt_tokens,
        made=sample.generation_tokens,
        first=FirstTokens(work.answered, work.late, work.queued),
    )


def _again(counted: Mapping[str, Counted], before: Mapping[str, Counted]) -> Iterator[tuple[Counted, Counted]]:
    """The engines that were looked at before and have answered since."""
    for name, now in counted.items():
        then = before.get(name)
        if then is not None and now.taken_s != then.taken_s:
            yield now, then


def _same(now: Counted, then: Counted) -> bool:
    return now.boot_id == then.boot_id


def _growth(counters: Callable[[Counted], tuple[_Number, ...]], now: Counted, then: Counted) -> tuple[_Number, ...]:
    after = counters(now)
    return after if not _same(now, then) else tuple(map(sub, after, counters(then)))


def _requests(one: Counted) -> tuple[float, ...]:
    """Requests received and refused, prompt tokens in, requests finished, tokens out; first tokens, late and queued ones."""
    first = one.first
    return (
        one.received,
        one.refused,
        one.taken,
        one.finished,
        one.output,
        first.answered,
        first.late,
        first.queued,
    )


def _steps(one: Counted) -> tuple[int, ...]:
    """Steps, tokens out, prompt tokens computed."""
    return (one.steps, one.made, one.computed)
