"""What the simulator says of a load test, beside what was measured: the error of a step model under load.

The simulated engine gets the same requests at the same times, and its answers go through the same summary. The front's share
of a first token is not in the steps; `front.py` measures it before the load.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headway_cli.bench.report import Record, percentile
from headway_cli.bench.workload import Arrival
from headway_planner.model import BatchLimits
from headway_planner.rivals.static import Static
from headway_planner.sim import jobs
from headway_planner.sim.fleet import simulate
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Bounds
from headway_planner.steps import StepModel

GOALS = {"TPOT mean": 0.05, "TTFT p95": 0.15}  # of the error, where there is one
_AFTER_S = 600.0  # that the simulation goes on for after the last arrival


@dataclass(frozen=True, slots=True)
class Beside:
    """One figure, milliseconds or tokens per second."""

    name: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Relative: 0.05 is 5 % more than measured."""
        return self.simulated / self.measured - 1


def records(model: StepModel, limits: BatchLimits, schedule: Sequence[Arrival]) -> list[Record]:
    """The fate of each request in one simulated engine."""
    setup = Setup(model, limits, max_replicas=1, patience_s=_AFTER_S)
    arrivals = [jobs.Arrival(one.at_s, one.input_tokens, one.output_tokens, jobs.Rank.INTERACTIVE) for one in schedule]
    bounds = Bounds(1, 1, limits.seqs, limits.tokens, limits)
    return [_record(job) for job in simulate(setup, arrivals, Static(bounds), seed=0).jobs]


def capacity(model: StepModel, limits: BatchLimits, schedule: Sequence[Arrival]) -> float:
    """Requests per second that a simulated engine serves when all of them are there at once."""
    fates = records(model, limits, [replace(one, at_s=0.0) for one in schedule])
    ends = [one.last_s for one in fates if one.last_s is not None]  # a slow engine does not get to all in `_AFTER_S`
    return len(ends) / max(ends) if ends else 0.0


def beside(measured: Sequence[Record], simulated: Sequence[Record]) -> list[Beside]:
    """The figures that both have."""
    pairs = zip(_figures(measured).items(), _figures(simulated).values(), strict=True)
    return [Beside(name, one, other) for (name, one), other in pairs if one and other is not None]


def as_json(model: StepModel, found: Sequence[Beside]) -> dict[str, object]:
    """Plain data, for `--json`."""
    rows = {
        one.name: {"measured": one.measured, "simulated": one.simulated, "error": round(one.error, 4)} for one in found
    }
    front = {"front_ms": round(model.first_token_ms, 3), "front_each_ms": round(model.first_token_each_ms, 4)}
    return {"engine": model.name, **front, "figures": rows}


def as_text(model: StepModel, found: Sequence[Beside]) -> str:
    """The same for people."""
    lines = [
        f"{model.name}, front {model.first_token_ms:.1f} ms and {model.first_token_each_ms:.3f} ms for each stream",
        f"{'':<14}{'measured':>10}{'simulated':>10}{'error':>8}",
    ]
    for one in found:
        goal = f"  goal {GOALS[one.name]:.0%}" if one.name in GOALS else ""
        lines.append(f"{one.name:<14}{one.measured:>10.1f}{one.simulated:>10.1f}{one.error:>8.1%}{goal}")
    return "\n".join(lines)


def _record(job: jobs.Job) -> Record:
    finished = job.end is jobs.End.FINISHED
    return Record(
        arrival_s=job.arrival_s,
        sent_s=job.arrival_s,
        first_s=job.first_s if job.first_s >= 0 else None,
        last_s=job.end_s if finished else None,
        tokens=job.outputs if finished else 0,
        gaps_ms=(),
        status="OK" if finished else str(job.end),
    )


def _figures(fates: Sequence[Record]) -> dict[str, float | None]:
    answered = [one for one in fates if one.status == "OK"]
    ttft = [value for one in answered if (value := one.ttft_ms) is not None]
    tpot = [value for one in answered if (value := one.tpot_ms) is not None]
    ends = [one.last_s for one in answered if one.last_s is not None]
    return {
        "TPOT mean": statistics.mean(tpot) if tpot else None,
        "TPOT p50": percentile(tpot, 0.5),
        "TPOT p95": percentile(tpot, 0.95),
        "TTFT p50": percentile(ttft, 0.5),
        "TTFT p95": percentile(ttft, 0.95),
        "output tok/s": sum(one.tokens for one in answered) / max(ends) if ends else None,
    }
