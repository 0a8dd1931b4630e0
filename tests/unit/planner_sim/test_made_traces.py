"""Made traces: loads as their forms say, lengths, classes, and draws that a number fixes."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import correlation, fmean, pstdev

import made_traces
import pytest
from made_traces import Scale

from headway_cli.simulate import traces
from headway_planner.sim.chance import Chance
from headway_planner.sim.jobs import Arrival, Rank

arrivals: Callable[[str, int], list[Arrival]] = cache(made_traces.arrivals)


def counted(name: str, begin_s: float, end_s: float, rank: Rank = Rank.INTERACTIVE) -> int:
    return sum(begin_s <= one.at_s < end_s and one.rank is rank for one in arrivals(name, 0))


@pytest.mark.parametrize(
    ("load", "engines"),
    [
        (made_traces.sine, {0: 1, 300: 4, 600: 7, 900: 4, 1200: 1, 1800: 7}),
        (made_traces.flash, {0: 0.8, 699: 0.8, 710: 4.4, 720: 8, 939: 8, 940: 0.8, 1799: 0.8}),
        (made_traces.ramp_cliff, {0: 1, 300: 1, 600: 4.5, 900: 8, 1079: 8, 1080: 0, 1679: 0, 1680: 1, 1799: 1}),
        (made_traces.rare, {0: 0, 539: 0, 540: 4, 599: 4, 600: 0, 3599: 4}),
        # Days of 480 s: the first, the fifth and the sixth.
        (made_traces.week, {0: 0.8, 95: 0.8, 240: 5.8, 385: 0.8, 2160: 5.8, 2640: 2.8, 3359: 0.8}),
        (made_traces.in_turn(300, 2.0, 6.0), {0: 2, 299: 2, 300: 6, 600: 2, 1500: 6}),
    ],
)
def test_loads_are_as_their_forms_say(load: made_traces.Rate, engines: dict[float, float]):
    assert {at_s: load(at_s) for at_s in engines} == pytest.approx(engines)


@pytest.mark.parametrize(
    ("name", "begin_s", "end_s", "rank", "a_second"),
    [
        ("flash", 0, 700, Rank.INTERACTIVE, 19 * 0.8),
        ("flash", 720, 940, Rank.INTERACTIVE, 19 * 8),
        ("flash", 940, 1800, Rank.INTERACTIVE, 19 * 0.8),
        ("rare", 540, 600, Rank.INTERACTIVE, 19 * 4),
        ("rare", 600, 1140, Rank.INTERACTIVE, 0),
        ("int_batch", 0, 150 * math.tau, Rank.INTERACTIVE, 19 * 2.5),
        ("int_batch", 0, 75 * math.tau, Rank.INTERACTIVE, 19 * (2.5 + 3 / math.pi)),
        ("int_batch", 0, 300, Rank.BATCH, 3.5),
        ("int_batch", 300, 600, Rank.BATCH, 21),
    ],
)
def test_requests_come_at_the_rate_of_the_load(name: str, begin_s: float, end_s: float, rank: Rank, a_second: float):
    expected = (end_s - begin_s) * a_second
    assert counted(name, begin_s, end_s, rank) == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_arrivals_are_poisson_not_even():
    times = [one.at_s for one in arrivals("flash", 0) if one.at_s < 700]
    gaps = [after - before for before, after in pairwise(times)]
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1, abs=0.05)


def test_lengths_are_log_normal_with_the_means_of_the_class():
    for rank, inputs, outputs in ((Rank.INTERACTIVE, 1000, 200), (Rank.BATCH, 1500, 600)):
        mine = [one for one in arrivals("int_batch", 0) if one.rank is rank]
        assert fmean(one.inputs for one in mine) == pytest.approx(inputs, rel=0.03)
        assert fmean(one.outputs for one in mine) == pytest.approx(outputs, rel=0.03)
        assert pstdev(math.log(one.inputs) for one in mine) == pytest.approx(0.8, rel=0.03)
        assert pstdev(math.log(one.outputs) for one in mine) == pytest.approx(0.7, rel=0.03)


def test_the_mixes_differ_in_the_class_of_their_online_requests():
    ranks = {name: [stream.rank for stream in made_traces.FORMS[name]] for name in ("int_batch", "rt_batch")}
    assert ranks == {"int_batch": [Rank.INTERACTIVE, Rank.BATCH], "rt_batch": [Rank.REALTIME, Rank.BATCH]}


def test_clusters_are_dense_and_large_and_last_for_seconds():
    times = list(made_traces.clusters(Chance(1), Scale()))
    seconds = [0] * 1800
    for at_s in times:
        seconds[int(at_s)] += 1
    # The mean of a Pareto of 30 with 1.3 that is cut at 1,500; 450 clusters in the mean.
    size = 30 + 30 / 0.3 * (1 - (30 / 1500) ** 0.3)
    assert len(times) == pytest.approx(450 * size, rel=0.25)
    assert pstdev(seconds) ** 2 > 20 * fmean(seconds)
    assert correlation(seconds[:-1], seconds[1:]) > 0.3  # a cluster takes some seconds


def test_a_week_has_weather_that_a_draw_fixes():
    def nights(seed: int) -> list[float]:
        counts = [0.0] * 112
        for at_s in made_traces.weekly(Chance(seed), Scale(times=0.5)):
            counts[int(at_s / 15)] += 1 / 15 / 19 / 0.8
        # The first 90 of the 480 s of each day: the load is 0.8.
        return [counts[16 * day + part] for day in range(7) for part in range(3)]

    one, other = nights(0), nights(1)
    assert pstdev(map(math.log, one + other)) == pytest.approx(0.25, abs=0.1)
    assert one != other


def test_a_draw_is_the_same_each_time_and_no_other():
    assert made_traces.arrivals("rare", 1) == arrivals("rare", 1)
    assert arrivals("rare", 1) != arrivals("rare", 0)
    # The kept results are of these.
    assert [len(arrivals("rare", draw)) for draw in (0, 1)] == [27398, 31524]
    assert [sum(one.inputs for one in arrivals("rare", draw)) for draw in (0, 1)] == [27399265, 31444891]


def test_draw_0_is_the_form_and_others_are_stretched_each_in_its_own_way():
    assert {made_traces.scale_of(name, 0) for name in made_traces.FORMS} == {Scale(1, 1)}
    scales = [made_traces.scale_of(name, draw) for name in made_traces.FORMS for draw in range(1, 50)]
    factors = [factor for one in scales for factor in (one.times, one.heights)]
    assert len(set(factors)) == len(factors)
    assert min(factors) == pytest.approx(3 / 4, abs=0.01)
    assert max(factors) == pytest.approx(4 / 3, abs=0.01)


def test_a_stretched_draw_has_its_burst_later_and_higher():
    times = [one.at_s for one in arrivals("rare", 1)]
    scale = made_traces.scale_of("rare", 1)
    assert times[0] == pytest.approx(540 * scale.times, abs=0.5)
    assert times[-1] == pytest.approx(3600 * scale.times, abs=0.5)
    expected = 6 * 60 * scale.times * 19 * 4 * scale.heights
    assert len(times) == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_a_file_is_a_trace_of_headway_simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times = made_traces.engines(10, lambda _: 1.0, 1.0)
    short = (made_traces.Stream(times, Rank.INTERACTIVE), made_traces.Stream(times, Rank.BATCH))
    monkeypatch.setitem(made_traces.FORMS, "short", short)
    path, expected = made_traces.write(tmp_path, "short", 3), made_traces.arrivals("short", 3)
    read = traces.read(path, Rank.REALTIME)
    assert path.name == "short-3.csv"
    assert {one.rank for one in read} == {Rank.INTERACTIVE, Rank.BATCH}
    for one, made in zip(read, expected, strict=True):
        assert one.at_s == pytest.approx(made.at_s - expected[0].at_s, abs=0.0011)
        assert (one.inputs, one.outputs, one.rank) == (made.inputs, made.outputs, made.rank)
