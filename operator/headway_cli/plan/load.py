"""The load of `headway plan`: one class by its flags, several by `--load`, or whatever a trace holds.

Batch work beside better classes, and wherever `--batch-deadline` is given, has a deadline; alone, or with `inf`, it is planned
by its first tokens.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from headway_cli.errors import CliError
from headway_cli.simulate import traces
from headway_cli.simulate.arguments import DEADLINE_S
from headway_planner.capacity import Mix
from headway_planner.offer import ClassDemand, Demand
from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, Arrival, Rank

LARGEST = 1e6
_SHAPE = "CLASS=RATE/INPUT/OUTPUT"


@dataclass(frozen=True, slots=True)
class Load:
    """What is planned for. `arrivals`: those of a trace; () without one."""

    demand: Demand
    arrivals: tuple[Arrival, ...] = ()


def read(given: argparse.Namespace) -> Load:
    """The load that the flags describe.

    Raises:
        CliError: flags that contradict each other, or a value that cannot be.
    """
    single = [flag for flag in ("rate", "input", "output") if getattr(given, flag) is not None]
    if bool(given.trace) + bool(given.load) + bool(single) > 1:
        raise CliError(f"give one of --trace FILE, --load {_SHAPE} (once a class), or --rate, --input and --output")
    if given.load and given.rank:
        raise CliError(f"--class is for --rate and --trace; --load {_SHAPE} names its own")
    rank = Rank[(given.rank or "interactive").upper()]
    deadline_s: float | None = given.batch_deadline
    if deadline_s is not None and not deadline_s > 0:
        raise CliError(f"--batch-deadline must be above 0, got {deadline_s}")
    if given.trace:
        return _of_trace(traces.read(given.trace, rank), deadline_s)
    if given.load:
        return Load(_of_classes([_parsed(text) for text in given.load], deadline_s))
    if missing := [f"--{flag}" for flag in ("rate", "input", "output") if flag not in single]:
        raise CliError(
            f"{', '.join(missing)} missing: a load is --rate, --input and --output, or --load {_SHAPE}, or --trace"
        )
    rate, inputs, outputs = (_number(f"--{flag}", getattr(given, flag)) for flag in ("rate", "input", "output"))
    return Load(_of_classes([(rank, rate, inputs, outputs)], deadline_s))


def _of_trace(arrivals: Sequence[Arrival], deadline_s: float | None) -> Load:
    """Each class of a trace by its means; the p95 prompt makes the longest prefill that counts, the shortest deadline too."""
    span_s = max(1.0, arrivals[-1].at_s)
    ranks = sorted({one.rank for one in arrivals})
    default_s = _deadline_s(ranks, deadline_s)
    arrivals = traces.due(arrivals, default_s)
    classes = []
    for rank in ranks:
        mine = [one for one in arrivals if one.rank is rank]
        prompts = sorted(one.inputs for one in mine)
        mix = Mix(sum(prompts) / len(mine), sum(one.outputs for one in mine) / len(mine))
        due_s = min(one.deadline_s for one in mine)
        classes.append(_class((rank, len(mine) / span_s), mix, due_s, prompts[int(0.95 * len(prompts))]))
    return Load(Demand(tuple(classes)), tuple(arrivals))


def _of_classes(found: Sequence[tuple[Rank, float, float, float]], deadline_s: float | None) -> Demand:
    ranks = [rank for rank, *_ in found]
    if len(set(ranks)) < len(ranks):
        raise CliError("--load: each class at most once")
    due_s = {Rank.BATCH: _deadline_s(ranks, deadline_s)}
    return Demand(
        tuple(
            _class((rank, rate), Mix(inputs, outputs), due_s.get(rank, math.inf))
            for rank, rate, inputs, outputs in sorted(found)
        )
    )


def _deadline_s(ranks: Sequence[Rank], asked_s: float | None) -> float:
    """Of batch requests that name none."""
    beside_others = Rank.BATCH in ranks and len(ranks) > 1
    return asked_s or (DEADLINE_S if beside_others else math.inf)


def _class(of: tuple[Rank, float], mix: Mix, deadline_s: float, long_input: int = 0) -> ClassDemand:
    rank, rate = of
    return ClassDemand(rank.name.lower(), rate, mix, TTFT_TARGET_MS[rank], ITL_TARGET_MS[rank], long_input, deadline_s)


def _parsed(text: str) -> tuple[Rank, float, float, float]:
    name, _, numbers = text.partition("=")
    parts = numbers.split("/")
    if name.upper() not in Rank.__members__ or len(parts) != 3:
        names = ", ".join(rank.name.lower() for rank in Rank)
        raise CliError(f"--load must be {_SHAPE} with a class of {names}; got {text!r}")
    rate, inputs, outputs = (_number(f"--load {name}", part) for part in parts)
    return Rank[name.upper()], rate, inputs, outputs


def _number(flag: str, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = 0.0
    if not 0 < value <= LARGEST:
        raise CliError(f"{flag} must be above 0 and at most {LARGEST:.0f}, got {text}")
    return value
