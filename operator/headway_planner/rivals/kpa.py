"""Knative's pod autoscaler on concurrency.

Tick 2 s; stable window 60 s, panic window 6 s, target = 70 % of the concurrency target (100 when unset). Both wants are
clamped to [floor(ready / 2), ceil(1000 * ready)]. Panic begins when the panic want is twice the ready pods and ends 60 s after
the last trigger; in panic the count never falls. Then the maximum over the scale-down delay (default 0). It counts ready pods
only, so it orders again while pods start (knative/serving#4344).

Source: knative/serving, pkg/autoscaler/scaling/autoscaler.go, with the defaults of its ConfigMap config-autoscaler.
"""

import math
from collections import deque

from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView

STABLE_S, PANIC_S, PANIC_THRESHOLD, UTILIZATION, MAX_UP = 60.0, 6.0, 2.0, 0.7, 1000


class Kpa:
    """The Knative autoscaler."""

    tick_s = 2.0
    lag_s = 1.0

    def __init__(self, bounds: Bounds, target: float = 100.0, delay_s: float = 0.0) -> None:
        self._bounds = bounds
        self._target = UTILIZATION * target
        self._delay_s = delay_s
        self._wanted: deque[tuple[float, int]] = deque()
        self._panic_until_s = -1.0
        self._panic_max = 0

    def decide(self, view: FleetView) -> Decision:
        """One tick."""
        ready = max(1, view.ready)
        stable = self._want(view.in_flight_mean(STABLE_S), ready)
        panic = self._want(view.in_flight_mean(PANIC_S), ready)
        if panic / ready >= PANIC_THRESHOLD:
            self._panic_until_s = view.now_s + STABLE_S
        if view.now_s < self._panic_until_s:
            self._panic_max = wanted = max(self._panic_max, stable, panic, ready)
            mode = "panic"
        else:
            self._panic_max, wanted, mode = 0, stable, "stable"
        self._wanted.append((view.now_s, wanted))
        while self._wanted[0][0] < view.now_s - self._delay_s:
            self._wanted.popleft()
        count = max(one for _, one in self._wanted)
        return Decision(self._bounds.clamp(count), f"{mode}: stable {stable}, panic {panic}")

    def _want(self, in_flight: float, ready: int) -> int:
        return min(max(math.ceil(in_flight / self._target), ready // 2), MAX_UP * ready)
