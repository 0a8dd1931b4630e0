"""The traffic of `goodput.py`, and what of it was served well. Pure.

Five mixes of requests follow each other. Each comes at the same share of what one engine sustains of that mix with the
widest limits, so that no mix is favoured: `capacity.sustained`, on step costs measured on the engine at hand.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from headway_cli.bench.report import Objective, Record, Report, summarize
from headway_cli.bench.workload import Arrival
from headway_planner.capacity import Mix, sustained
from headway_planner.model import BatchLimits
from headway_planner.steps import StepCost

SPREAD = 0.5  # lengths are spread over the mean less and more so much of it


@dataclass(frozen=True, slots=True)
class Phase:
    """One mix of requests for some seconds; mean tokens of a prompt and of an answer."""

    name: str
    seconds: float
    inputs: int
    outputs: int
    rate: float = 0.0  # requests/s


# The first three mixes are those of `tuner_case.py`.
PHASES = (
    Phase("chat", 25, 1155, 211),
    Phase("code", 20, 2048, 28),
    Phase("answers", 25, 300, 800),
    Phase("prompts", 10, 2500, 64),
    Phase("chat again", 20, 1155, 211),
)


def scaled(phases: Sequence[Phase], lengths: float, seconds: float) -> tuple[Phase, ...]:
    """The same for a smaller engine: lengths and times multiplied."""
    return tuple(
        replace(
            phase,
            seconds=phase.seconds * seconds,
            inputs=max(2, round(phase.inputs * lengths)),
            outputs=max(2, round(phase.outputs * lengths)),
        )
        for phase in phases
    )


def rated(
    phases: Sequence[Phase], model: StepCost, widest: BatchLimits, itl_target_ms: float, share: float
) -> tuple[Phase, ...]:
    """Each phase at `share` of the rate that an engine of these step costs sustains of it with the widest limits."""
    return tuple(
        replace(phase, rate=share * sustained(model, Mix(phase.inputs, phase.outputs), widest, itl_target_ms).rate)
        for phase in phases
    )


def edges(phases: Sequence[Phase]) -> tuple[float, ...]:
    """Where each phase begins, and the end of the last one, seconds."""
    return tuple(accumulate((phase.seconds for phase in phases), initial=0.0))


def bounds(phases: Sequence[Phase]) -> list[tuple[float, float]]:
    """Begin and end of each phase."""
    return list(pairwise(edges(phases)))


def arrivals(phases: Sequence[Phase], seed: int) -> list[Arrival]:
    """Poisson arrivals of all phases."""
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    found: list[Arrival] = []
    for phase, (begin_s, end_s) in zip(phases, bounds(phases), strict=True):
        at_s = begin_s + rng.expovariate(phase.rate)
        while at_s < end_s:
            lengths = (
                max(1, round(mean * rng.uniform(1 - SPREAD, 1 + SPREAD))) for mean in (phase.inputs, phase.outputs)
            )
            found.append(Arrival(len(found), at_s, *lengths))
            at_s += rng.expovariate(phase.rate)
    return found


def ramp(phases: Sequence[Phase], seconds: float, seed: int) -> list[Arrival]:
    """All mixes in turn, evenly, from none to their mean rate; answers half as long, so that it is over soon."""
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    rate = len(phases) / sum(1 / phase.rate for phase in phases)
    found: list[Arrival] = []
    while True:
        # The n-th arrival of a rate that grows in proportion to time.
        at_s = (2 * seconds * (len(found) + rng.random()) / rate) ** 0.5
        if at_s > seconds:
            return found
        phase = phases[len(found) % len(phases)]
        found.append(Arrival(len(found), at_s, phase.inputs, max(2, phase.outputs // 2)))


@dataclass(frozen=True, slots=True)
class Span:
    """What came in some seconds, and how it was served. `goodput`: requests/s of them that kept both targets."""

    begin_s: float
    end_s: float
    goodput: float
    offered: float
    report: Report


def spans(records: Sequence[Record], marks: Sequence[float], objective: Objective) -> list[Span]:
    """One for each two neighbours of `marks`; a request counts where it arrived."""
    found = []
    for begin_s, end_s in pairwise(marks):
        report = summarize([record for record in records if begin_s <= record.arrival_s < end_s], objective)
        per_s = report.requests / (end_s - begin_s)
        found.append(Span(begin_s, end_s, report.good_share * per_s, per_s, report))
    return found


def grid(end_s: float, step_s: float) -> list[float]:
    """Bounds of equal windows, the last one at `end_s` or before."""
    return [index * step_s for index in range(int(end_s / step_s + 1e-9) + 1)]
