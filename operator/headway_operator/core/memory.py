"""What a fleet's passes leave to each other, and the part of it that a crash must not lose.

The shell keeps a `LoopMemory` per fleet and hands it from pass to pass. A new operator has none: it reads the demand of the
last hour, the mean request and the cost of a step from `status.demand`, which is renewed each minute under load and not at
all by an idle fleet. The bursts inside of a minute are lost, so nothing is removed before new ones had time to be seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from headway_operator.api.v1alpha1 import DemandStatus
from headway_operator.core import ages
from headway_planner.budget import FirstTokens
from headway_planner.capacity import Mix
from headway_planner.control import ControlMemory
from headway_planner.coordinator import HISTORY_S, Memory, Totals
from headway_planner.deferred import Backlog, Lengths
from headway_planner.identify import LearntSteps, learnt

MINUTE_S = 60
MINUTES = 60
MANY = 1e6  # requests that the status's mean lengths stand for: as many as there is room for


class Counted(NamedTuple):  # one is made for each engine of a pass, and a frozen dataclass costs twice as much
    """The counters of one engine when it was last looked at: of some of its work, and of the steps for all of it.

    Attributes:
        taken: prompt tokens that came in, finished or not.
        steps, step_ms, computed, made: steps, their time, prompt tokens computed and tokens out in them.
        first: first tokens, in time and not.
    """

    boot_id: str
    taken_s: float
    received: int
    refused: int
    taken: int
    finished: int
    output: int
    steps: int
    step_ms: float
    computed: int
    made: int
    first: FirstTokens


class Admitted(NamedTuple):  # like `Counted`
    """Requests with a deadline in one engine when it was last looked at: counters since its boot, and gauges.

    Attributes:
        first: requests that are in it, and were in no other one before.
        running: that hold a slot.
    """

    boot_id: str
    admitted: int
    first: float
    prompt_tokens: int
    finished: int
    running: int
    output_tokens: int
    waiting: int
    queued_tokens: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """Requests with a deadline: how many came since any start, what each engine had counted by then, how long they are."""

    came: float = 0.0
    engines: Mapping[str, Admitted] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)


@dataclass(frozen=True, slots=True)
class LoopMemory:
    """Between two passes over one fleet.

    Attributes:
        control: of the policy.
        revision: of the pods that it was learnt from.
        engines: counters per pod name; {} where batch work has a deadline and never counts.
        online: the same without batch work, where that fills the slack of better classes.
        arrived: the requests with a deadline.
        lost: uids of pods that stopped being ready without a restart: since when they are says nothing about their start.
        totals: what all engines did since the first pass, restarts and removed pods included.
        passed_s: when the pass was, on the monotonic clock.
        began_s: when the first pass of this process was.
        stamps: times that the API holds, by when they were on the monotonic clock (`clock.py`).
    """

    control: ControlMemory = field(default_factory=ControlMemory)
    revision: str = ""
    engines: Mapping[str, Counted] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    passed_s: float = 0.0
    stamps: Mapping[datetime, float] = field(default_factory=dict)
    online: Mapping[str, Counted] = field(default_factory=dict)
    arrived: Arrived = field(default_factory=Arrived)
    lost: frozenset[str] = frozenset()
    began_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, on the wall clock and on that of the samples; and the deadline of batch work, infinite when it has none."""

    now: datetime
    at_s: float
    deadline_s: float


def restored(before: DemandStatus | None, revision: str, moment: Moment) -> LoopMemory:
    """The memory of a process that begins: what the status kept, unless it is about other pods."""
    if before is None or before.revision != revision:
        return LoopMemory(revision=revision)
    work = [value / 1000 for value in before.per_minute for _ in range(MINUTE_S)]
    gap_s = max(0, round((moment.now - before.time).total_seconds()))  # a clock that went back makes no gap
    if work:
        # What came while no operator looked is taken to be like the last minute.
        work += [work[-1]] * min(HISTORY_S, gap_s)
    mix = None
    if before.input_tokens is not None and before.output_tokens is not None:
        mix = Mix(float(before.input_tokens), float(before.output_tokens))
    marks = ages.marks_of(before.deferred_by_age, moment.deadline_s, moment.at_s - gap_s)
    demand = Memory(prior=_steps(before), work=tuple(work[-HISTORY_S:]), mix=mix, backlog=Backlog(marks=marks))
    arrived = Arrived(came=marks[-1][1] if marks else 0.0, lengths=_lengths(before))
    return LoopMemory(control=ControlMemory(demand=demand), revision=revision, arrived=arrived)


def carried(before: LoopMemory, fresh: LoopMemory) -> LoopMemory:
    """The memory of pods of a new revision: times stay, and how long work with a deadline has waited is no matter of pods."""
    demand = replace(fresh.control.demand, backlog=before.control.demand.backlog)
    control = replace(fresh.control, demand=demand)
    return replace(fresh, stamps=before.stamps, control=control, arrived=before.arrived)


def remembered(
    memory: LoopMemory, before: DemandStatus | None, now: datetime, deadline_s: float
) -> DemandStatus | None:
    """The status block after a pass: the one from before unless a minute has passed in which something came."""
    demand = memory.control.demand
    kept = before if before is not None and before.revision == memory.revision else None
    elapsed_s = None if kept is None else (now - kept.time).total_seconds()
    if elapsed_s is not None and 0 <= elapsed_s < MINUTE_S:
        return kept
    minutes = _minutes(demand.work)
    waits = ages.by_age(demand.backlog, deadline_s, demand.last.at_s) if demand.last is not None else ()
    quiet = kept is None or not (any(kept.per_minute[-1:]) or kept.deferred_by_age)
    if quiet and not any(minutes[-1:]) and not waits:
        return kept
    steps = learnt(demand.fit, 0) or demand.prior
    inputs, outputs = (round(mean) or None for mean in memory.arrived.lengths.means)
    return DemandStatus(
        time=now,
        revision=memory.revision,
        per_minute=minutes,
        input_tokens=None if demand.mix is None else round(demand.mix.inputs),
        output_tokens=None if demand.mix is None else round(demand.mix.outputs),
        deferred_by_age=waits,
        deferred_input_tokens=inputs,
        deferred_output_tokens=outputs,
        step_microseconds=None if steps is None else round(1000 * steps.step_ms),
        sequence_microseconds=None if steps is None else round(1000 * steps.sequence_ms),
        prompt_token_microseconds=None if steps is None else round(1000 * steps.token_ms),
    )


def _minutes(work: tuple[float, ...]) -> tuple[int, ...]:
    """Means of whole minutes, newest last, in thousandths."""
    count = min(MINUTES, len(work) // MINUTE_S)
    begin = len(work) - count * MINUTE_S
    parts = (work[at : at + MINUTE_S] for at in range(begin, len(work), MINUTE_S))
    return tuple(round(1000 * sum(part) / MINUTE_S) for part in parts)


def _lengths(before: DemandStatus) -> Lengths:
    if before.deferred_input_tokens is None or before.deferred_output_tokens is None:
        return Lengths()
    inputs, outputs = MANY * before.deferred_input_tokens, MANY * before.deferred_output_tokens
    return Lengths(MANY, inputs, MANY, outputs)


def _steps(before: DemandStatus) -> LearntSteps | None:
    step, sequence, token = before.step_microseconds, before.sequence_microseconds, before.prompt_token_microseconds
    if step is None or sequence is None or token is None or step + sequence <= 0:
        return None
    return LearntSteps(step / 1000, sequence / 1000, token / 1000, kv_tokens=0)
