"""The load of `headway plan`: one class by its flags, several by `--load`, or whatever a trace holds."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from headway_cli.errors import CliError
from headway_cli.simulate import traces
from headway_planner.advisor import ClassDemand, Demand
from headway_planner.capacity import Mix
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
    rank = Rank[given.rank.upper()]
    if given.trace:
        return _of_trace(traces.read(given.trace, rank))
    if given.load:
        return Load(_of_classes([_parsed(text) for text in given.load]))
    rate, inputs, outputs = (_number(f"--{flag}", getattr(given, flag)) for flag in ("rate", "input", "output"))
    return Load(_of_classes([(rank, rate, inputs, outputs)]))


def _of_trace(arrivals: Sequence[Arrival]) -> Load:
    """Each class of a trace by its means; the p95 prompt makes the longest prefill that counts."""
    span_s = max(1.0, arrivals[-1].at_s)
    classes = []
    for rank in sorted({one.rank for one in arrivals}):
        mine = [one for one in arrivals if one.rank is rank]
        prompts = sorted(one.inputs for one in mine)
        mix = Mix(sum(prompts) / len(mine), sum(one.outputs for one in mine) / len(mine))
        classes.append(_class(rank, len(mine) / span_s, mix, prompts[int(0.95 * len(prompts))]))
    return Load(Demand(tuple(classes)), tuple(arrivals))


def _of_classes(found: Sequence[tuple[Rank, float, float, float]]) -> Demand:
    ranks = [rank for rank, *_ in found]
    if len(set(ranks)) < len(ranks):
        raise CliError("--load: each class at most once")
    return Demand(tuple(_class(rank, rate, Mix(inputs, outputs)) for rank, rate, inputs, outputs in sorted(found)))


def _class(rank: Rank, rate: float, mix: Mix, long_input: int = 0) -> ClassDemand:
    return ClassDemand(rank.name.lower(), rate, mix, TTFT_TARGET_MS[rank], ITL_TARGET_MS[rank], long_input)


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
        raise CliError(f"{flag} must be above 0 and at most {LARGEST:.0f} (or give --trace), got {text}")
    return value
