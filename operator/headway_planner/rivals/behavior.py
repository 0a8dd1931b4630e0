"""The scaling behaviour of the Kubernetes HorizontalPodAutoscaler, which several rivals act through.

A recommendation goes down only to the largest one of the last window, up only to the smallest one of its window; then the
change per period is limited, counted over all changes inside the period.
"""

from collections import deque
from dataclasses import dataclass

from headway_planner.sim.signals import Bounds


@dataclass(frozen=True, slots=True)
class Speed:
    """Windows and rates. A share and a number of pods: the larger of the two is allowed per period."""

    up_window_s: float = 0.0
    up_share: float = 1.0
    up_pods: int = 4
    up_period_s: float = 15.0
    down_window_s: float = 300.0
    down_share: float = 1.0
    down_pods: int = 0
    down_period_s: float = 15.0


class Behavior:
    """Recommendations in, counts out. One per run."""

    def __init__(self, bounds: Bounds, speed: Speed) -> None:
        self._bounds = bounds
        self._speed = speed
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def apply(self, now_s: float, desired: int, recommended: float) -> int:
        """The count to work towards now."""
        speed = self._speed
        wanted = self._bounds.clamp(recommended)
        if not self._recommended:  # the controller takes the count that it finds for a first recommendation
            self._recommended.append((now_s, desired))
        self._recommended.append((now_s, wanted))
        keep_s = max(speed.up_window_s, speed.down_window_s)
        while self._recommended[0][0] < now_s - keep_s:
            self._recommended.popleft()
        floor = max((count for at_s, count in self._recommended if at_s > now_s - speed.down_window_s), default=wanted)
        ceiling = min((count for at_s, count in self._recommended if at_s > now_s - speed.up_window_s), default=wanted)
        stable = min(max(desired, ceiling), floor) if ceiling > desired else min(desired, floor)
        limited = self._limited(now_s, desired, stable)
        if limited != desired:
            self._changes.append((now_s, limited - desired))
        return self._bounds.clamp(limited)

    def _limited(self, now_s: float, desired: int, wanted: int) -> int:
        speed = self._speed
        while self._changes and self._changes[0][0] <= now_s - max(speed.up_period_s, speed.down_period_s):
            self._changes.popleft()
        added = sum(size for at_s, size in self._changes if size > 0 and at_s > now_s - speed.up_period_s)
        removed = -sum(size for at_s, size in self._changes if size < 0 and at_s > now_s - speed.down_period_s)
        if wanted > desired:
            start = desired - added
            return min(wanted, max(desired, int(start * (1 + speed.up_share)), start + speed.up_pods))
        start = desired + removed
        return max(wanted, min(desired, int(start * (1 - speed.down_share)), start - speed.down_pods))
