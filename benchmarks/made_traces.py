"""Traces by formula, for a look at loads that nobody tuned to: `python benchmarks/made_traces.py FOLDER [DRAW...]`.

Writes FORM-DRAW.csv of each form and draw (0 and 1 unless given) into the folder, in the format of `headway simulate`. Requests are a
Poisson process by thinning, 19 a second for each engine's worth of load. Prompts and answers are log-normal.

A draw is a number; the same one gives the same files everywhere. Draw 0 is each form as it is written here. Any other draw stretches
its times and its heights too, each by a factor of 3/4 to 4/3, so that what fits the numbers of one draw need not fit another.
"""

import csv
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import crc32

from headway_planner.sim.chance import Chance
from headway_planner.sim.jobs import Arrival, Rank

PER_ENGINE = 19.0  # requests a second
MOST_FACTOR = 4 / 3  # of a draw's times and heights
DAY_S, GUST_S, GUST_SIGMA = 480.0, 30.0, 0.25  # of `weekly`
_STRETCH, _HEIGHT, _STREAMS = range(3)  # streams of randomness, those of the requests last

Rate = Callable[[float], float]  # second of the form -> requests a second
Lengths = tuple[float, float]  # mean of the tokens, sigma of their logarithm
INPUTS, OUTPUTS = (1000.0, 0.8), (200.0, 0.7)
BATCH_INPUTS, BATCH_OUTPUTS = (1500.0, 0.8), (600.0, 0.7)


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors of one draw."""

    times: float = 1.0
    heights: float = 1.0


Times = Callable[[Chance, Scale], Iterator[float]]  # seconds of arrivals, in any order


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one class."""

    times: Times
    rank: Rank = Rank.INTERACTIVE
    inputs: Lengths = INPUTS
    outputs: Lengths = OUTPUTS


def poisson(span_s: float, rate: Rate, most: float) -> Times:
    """Arrivals at a rate that changes; none is above `most`."""

    def times(chance: Chance, scale: Scale) -> Iterator[float]:
        at_s, gap_s = 0.0, 1 / (most * scale.heights)
        while (at_s := at_s + chance.exponential(gap_s)) < span_s * scale.times:
            if chance.uniform() * most < rate(at_s / scale.times):
                yield at_s

    return times


def engines(span_s: float, load: Rate, most: float) -> Times:
    """Arrivals at a load in engines' worth of requests."""
    return poisson(span_s, lambda at_s: PER_ENGINE * load(at_s), PER_ENGINE * most)


def in_turn(span_s: float, *values: float) -> Rate:
    """One value after the other, each for so long."""
    return lambda at_s: values[int(at_s / span_s) % len(values)]


def sine(at_s: float) -> float:
    """Engines: 1 to 7 and back in twenty minutes."""
    return 4 + 3 * math.sin(2 * math.pi * at_s / 1200 - math.pi / 2)


def flash(at_s: float) -> float:
    """Engines: 0.8; within 20 s ten times as many, for four minutes."""
    return 0.8 + 7.2 * min(1.0, (at_s - 700) / 20) if 700 <= at_s < 940 else 0.8


def ramp_cliff(at_s: float) -> float:
    """Engines: 1, in ten minutes to 8, nothing from three minutes later on, and 1 at the end."""
    if at_s < 1080:
        return 1 + 7 * min(1.0, max(0.0, (at_s - 300) / 600))
    return 0.0 if at_s < 1680 else 1.0


def rare(at_s: float) -> float:
    """Engines: 4 in the last minute of every ten."""
    return 4.0 if at_s % 600 >= 540 else 0.0


def week(at_s: float) -> float:
    """Engines: 0.8, and in the middle of each of seven days a hill of 5 more, of 2 more on the last two."""
    day, second = divmod(at_s, DAY_S)
    hill = math.sin(math.pi * (second / DAY_S - 0.2) / 0.6) if 0.2 <= second / DAY_S < 0.8 else 0.0
    return 0.8 + (5 if day < 5 else 2) * hill


def weekly(chance: Chance, scale: Scale) -> Iterator[float]:
    """The week, times a factor that is drawn anew every 30 s."""
    gusts = [chance.lognormal(1.0, GUST_SIGMA) for _ in range(math.ceil(7 * DAY_S / GUST_S))]
    load = engines(7 * DAY_S, lambda at_s: week(at_s) * gusts[int(at_s / GUST_S)], 5.8 * max(gusts))
    return load(chance, scale)


def clusters(chance: Chance, scale: Scale) -> Iterator[float]:
    """Clusters every 4 s in the mean, of 30 to 1,500 requests (Pareto, 1.3), each of them dense or not."""
    begin_s, span_s = 0.0, 1800 * scale.times
    while (begin_s := begin_s + chance.exponential(4.0)) < span_s:
        size = min(1500.0, 30 * (1 - chance.uniform()) ** (-1 / 1.3))
        spread_s = 0.5 + chance.exponential(3.0)
        for _ in range(round(scale.heights * size)):
            if (at_s := begin_s + chance.exponential(spread_s)) < span_s:
                yield at_s


def _online(at_s: float) -> float:
    return 2.5 + 1.5 * math.sin(at_s / 150)


_BATCH = Stream(poisson(1800, in_turn(300, 3.5, 21.0), 21.0), Rank.BATCH, BATCH_INPUTS, BATCH_OUTPUTS)
FORMS = {
    "sine": (Stream(engines(2400, sine, 7.0)),),
    "square10": (Stream(engines(1800, in_turn(300, 2.0, 6.0), 6.0)),),
    "flash": (Stream(engines(1800, flash, 8.0)),),
    "ramp_cliff": (Stream(engines(1800, ramp_cliff, 8.0)),),
    "rare": (Stream(engines(3600, rare, 4.0)),),
    "clusters": (Stream(clusters),),
    "weekly": (Stream(weekly),),
    "int_batch": (Stream(engines(1800, _online, 4.0)), _BATCH),
    "rt_batch": (Stream(engines(1800, _online, 4.0), Rank.REALTIME), _BATCH),
}


def scale_of(name: str, draw: int) -> Scale:
    """How a draw stretches the form: draw 0 not at all."""
    if draw == 0:
        return Scale()
    chance = _chance(name, draw)
    return Scale(*(MOST_FACTOR ** (2 * chance.split(one).uniform() - 1) for one in (_STRETCH, _HEIGHT)))


def arrivals(name: str, draw: int) -> list[Arrival]:
    """The requests of one draw of a form, by arrival.

    Raises:
        KeyError: there is no such form.
    """
    chance, scale = _chance(name, draw), scale_of(name, draw)
    parts = (_requests(stream, chance.split(number), scale) for number, stream in enumerate(FORMS[name], _STREAMS))
    return sorted(chain.from_iterable(parts), key=lambda one: one.at_s)


def _requests(stream: Stream, chance: Chance, scale: Scale) -> Iterator[Arrival]:
    lengths = chance.split(1)
    for at_s in stream.times(chance.split(0), scale):
        yield Arrival(at_s, _tokens(lengths, stream.inputs), _tokens(lengths, stream.outputs), stream.rank)


def _chance(name: str, draw: int) -> Chance:
    return Chance(draw).split(crc32(name.encode()))


def _tokens(chance: Chance, lengths: Lengths) -> int:
    mean, sigma = lengths
    return max(1, round(chance.lognormal(mean * math.exp(-sigma * sigma / 2), sigma)))


def write(folder: Path, name: str, draw: int) -> Path:
    """The file of one draw of a form."""
    path = folder / f"{name}-{draw}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("arrival_s", "input_tokens", "output_tokens", "class"))
        lines.writerows(
            (f"{one.at_s:.3f}", one.inputs, one.outputs, one.rank.name.lower()) for one in arrivals(name, draw)
        )
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for number in map(int, sys.argv[2:] or ("0", "1")):
        for form in FORMS:
            print(write(target, form, number))
