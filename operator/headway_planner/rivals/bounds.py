"""Bounds: a fleet that knows the future, and one that nobody can beat.

Clairvoyant: a schedule of counts made from the arrivals themselves. The work of each 5 s, spread over the time in which it
may still be done, divided by the share of an engine that is planned with, is the count needed; replicas are ordered a start
delay ahead, and kept through a valley that is shorter than a start. The benchmark finds the share by trial: the fewest hours
at the attainment asked for. It uses no burst reserve, so a policy that retunes can beat it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from headway_planner.sim.jobs import Arrival
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView
from headway_planner.steps import StepModel

BIN_S = 5.0


def work_s(model: StepModel, arrivals: Sequence[Arrival]) -> float:
    """Engine seconds that the arrivals cost at the least: the work bound."""
    return sum(model.least_work_ms(one.inputs, one.outputs) for one in arrivals) / 1000


def work_bins(model: StepModel, arrivals: Sequence[Arrival]) -> list[float]:
    """Engine seconds of work by bin; decoding is spread over the time that it takes at a step of 20 ms.

    A request with a deadline is spread evenly over the time that it has.
    """
    bins = [0.0] * (int(arrivals[-1].at_s / BIN_S) + 1) if arrivals else []
    for one in arrivals:
        total = model.least_work_ms(one.inputs, one.outputs) / 1000
        prompt = min(total, model.least_work_ms(one.inputs, 0) / 1000)
        first = int(one.at_s / BIN_S)
        stay_s = 0.02 * one.outputs
        if one.deferrable:
            prompt, stay_s = 0.0, max(stay_s, one.deadline_s)
        bins[first] += prompt
        last = min(len(bins) - 1, int((one.at_s + stay_s) / BIN_S))
        for index in range(first, last + 1):
            bins[index] += (total - prompt) / (last - first + 1)
    return bins


def schedule(bins: Sequence[float], share: float, start_s: float, bounds: Bounds) -> list[int]:
    """Replicas needed in each bin, valleys filled that are shorter than a start."""
    need = [bounds.clamp(math.ceil(work / BIN_S / share)) for work in bins]
    bridge = max(1, round(start_s / BIN_S))
    for level in range(max(need, default=0), bounds.min_replicas, -1):
        above = [index for index, count in enumerate(need) if count >= level]
        for one, other in pairwise(above):
            if 1 < other - one <= bridge:
                for index in range(one + 1, other):
                    need[index] = max(need[index], level)
    return need


class Clairvoyant:
    """Follows a schedule, a start ahead of it upwards."""

    tick_s = BIN_S
    lag_s = 0.0

    def __init__(self, bounds: Bounds, need: Sequence[int], start_s: float) -> None:
        """`start_s`: a start that nearly all replicas keep."""
        self._bounds = bounds
        self._need = need
        self._ahead = math.ceil(start_s / BIN_S) + 1

    def decide(self, view: FleetView) -> Decision:
        """The most that is needed from now until a replica ordered now would serve."""
        now = int(view.now_s / BIN_S)
        ahead = self._need[now : now + self._ahead + 1]
        backlog = view.latest.in_flight > 0
        count = max(ahead) if ahead else (view.desired if backlog else self._bounds.min_replicas)
        return Decision(self._bounds.clamp(count), "known future")
