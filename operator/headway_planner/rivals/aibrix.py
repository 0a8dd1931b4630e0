"""AIBrix APA on requests in flight per pod.

Every 10 s over a window of 180 s: r = use / target; r > 1.1: min(ceil(n r), ceil(2 n)); r < 0.9: max(ceil(n r), floor(n / 2));
a smaller count waits for the maximum of 300 s, a larger one for nothing. The metric has no default; 16 in flight as for the HPA.

Source: vllm-project/aibrix, pkg/controller/podautoscaler (algorithm/apa.go).
"""

import math
from collections import deque

from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView

WINDOW_S, COOLDOWN_S, BAND = 180.0, 300.0, 0.1


class Aibrix:
    """The adaptive pod autoscaler."""

    tick_s = 10.0
    lag_s = 10.0

    def __init__(self, bounds: Bounds, target: float = 16.0) -> None:
        self._bounds = bounds
        self._target = target
        self._wanted: deque[tuple[float, int]] = deque()

    def decide(self, view: FleetView) -> Decision:
        """One evaluation."""
        pods = max(1, view.ready)
        wanted = proposal(view.in_flight_mean(WINDOW_S) / pods / self._target, pods, view.desired)
        self._wanted.append((view.now_s, wanted))
        while self._wanted[0][0] < view.now_s - COOLDOWN_S:
            self._wanted.popleft()
        count = max(wanted, min(view.desired, max(one for _, one in self._wanted)))
        return Decision(self._bounds.clamp(count), f"{wanted} wanted of {pods} ready")


def proposal(ratio: float, pods: int, desired: int) -> int:
    """The rule without its cooldown: `ratio` of use over target on `pods`."""
    if ratio > 1 + BAND:
        return min(math.ceil(pods * ratio), 2 * pods)
    if ratio < 1 - BAND:
        return max(math.ceil(pods * ratio), pods // 2, 1)
    return desired
