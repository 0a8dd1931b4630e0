"""KEDA's usual trigger for LLM servers: the sum of waiting requests, threshold 5, through an HPA.

External metric, AverageValue: r = total / (threshold * replicas), kept inside 1 +- 0.1, else ceil(total / threshold). HPA
behaviour at its defaults; scaling between 0 and 1 (KEDA's own part: poll 30 s, cooldown 300 s) is outside of the bounds used
here. Prometheus and the adapter make the metric 30 s old.

Source: KEDA's reference of ScaledObject (AverageValue triggers, polling, cooldown), and the HPA that it makes: `hpa.py`.
"""

import math

from headway_planner.rivals.behavior import Behavior, Speed
from headway_planner.rivals.hpa import TOLERANCE
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView


class Keda:
    """KEDA on waiting requests."""

    tick_s = 15.0
    lag_s = 30.0

    def __init__(self, bounds: Bounds, target: float = 5.0) -> None:
        self._target = target
        self._behavior = Behavior(bounds, Speed())

    def decide(self, view: FleetView) -> Decision:
        """One evaluation of the HPA that KEDA made."""
        total = view.latest.waiting
        wanted = average_value(total, self._target, view.desired)
        count = self._behavior.apply(view.now_s, view.desired, wanted)
        return Decision(count, f"{total} waiting, threshold {self._target:g}: {wanted} wanted")


def average_value(total: float, target: float, replicas: int) -> int:
    """The AverageValue rule."""
    if replicas > 0 and abs(total / (target * replicas) - 1) <= TOLERANCE:
        return replicas
    return math.ceil(total / target)
