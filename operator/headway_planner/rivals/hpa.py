"""Kubernetes HPA v2 (1.36) on requests in flight per pod, a Pods metric through the metrics adapter.

Every 15 s, metrics 30 s old. ratio = mean over pods with a sample / target, kept inside 1 +- 0.1, else ceil(ratio * pods).
An engine that loads weights runs without a sample and is *missing*: it counts at the target when the ratio is below 1, at 0
when above, and nothing changes when that flips the direction. Up at most max(100 %, 4 pods) per 15 s, down to the largest
recommendation of 300 s. There is no default target; 16 in flight is that of the llm-d guide.

Source: kubernetes/kubernetes, pkg/controller/podautoscaler (replica_calculator.go); the target: guide "workload-autoscaling" of llm-d.
"""

import math

from headway_planner.rivals.behavior import Behavior, Speed
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView

TOLERANCE = 0.1


class Hpa:
    """The HPA on running + waiting requests."""

    tick_s = 15.0
    lag_s = 30.0

    def __init__(self, bounds: Bounds, target: float = 16.0) -> None:
        self._bounds = bounds
        self._target = target
        self._behavior = Behavior(bounds, Speed())

    def decide(self, view: FleetView) -> Decision:
        """One evaluation."""
        sample = view.latest
        values = [replica.running + replica.waiting for replica in sample.replicas]
        if not values:
            return Decision(self._bounds.clamp(view.desired), "no pod has a sample")
        missing = max(0, view.desired - len(values))
        wanted = proposal(sum(values), len(values), missing, self._target, view.desired)
        count = self._behavior.apply(view.now_s, view.desired, wanted)
        mean = sum(values) / len(values)
        return Decision(count, f"{mean:.1f} in flight per pod, target {self._target:g}: {wanted} wanted")


def proposal(total: float, counted: int, missing: int, target: float, desired: int) -> int:
    """The Pods-metric rule: `total` over `counted` pods with samples, `missing` without."""
    ratio = total / counted / target
    if abs(ratio - 1) <= TOLERANCE:
        return desired
    if missing == 0:
        return math.ceil(ratio * counted)
    pods = counted + missing
    filled = (total + (missing * target if ratio < 1 else 0)) / pods / target
    if abs(filled - 1) <= TOLERANCE or (filled > 1) != (ratio > 1):
        return desired
    return math.ceil(filled * pods)
