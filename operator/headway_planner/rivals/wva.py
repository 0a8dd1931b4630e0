"""llm-d Workload Variant Autoscaler, V1 and V2 (V2 is the default of its last release, 0.9.0).

Every 60 s, then an HPA with windows of 240 s both ways. V1: a replica is saturated at KV >= 0.80 or queue >= 5; over the
others, +1 when mean spare KV < 0.10 or mean spare queue < 3 and nothing starts, -1 when the load over n - 1 keeps both.
V2: demand = KV tokens in use + queue * mean input; a replica's capacity k is 0.8 of its KV, or less when a queue >= 5 was
seen at fewer tokens in use (mean of the last 10); up by ceil((demand / 0.85 - supply) / k), supply with starting replicas,
down by floor((supply of the ready - demand / 0.70) / k).

Source: llm-d/llm-d-workload-variant-autoscaler, release 0.9.0; V2's capacity that counts a stock: its issue 1500.
"""

import math
from collections import deque

from headway_planner.rivals.behavior import Behavior, Speed
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView, ReplicaSample

KV_SATURATED, QUEUE_SATURATED, SPARE_KV, SPARE_QUEUE, DOWN_AT = 0.80, 5, 0.10, 3, 0.70
_SPEED = Speed(up_window_s=240.0, down_window_s=240.0)


class WvaSaturation:
    """V1."""

    tick_s = 60.0
    lag_s = 15.0

    def __init__(self, bounds: Bounds, target: float = KV_SATURATED) -> None:
        self._target = target
        self._behavior = Behavior(bounds, _SPEED)

    def decide(self, view: FleetView) -> Decision:
        """One loop."""
        wanted = view.desired + self._step(view)
        return Decision(self._behavior.apply(view.now_s, view.desired, wanted), f"{wanted} wanted")

    def _step(self, view: FleetView) -> int:
        sane = [one for one in view.latest.replicas if one.kv_usage < self._target and one.waiting < QUEUE_SATURATED]
        if not sane:
            return 1 if view.starting == 0 else 0
        kv, queue = self._spare(sane, 1.0)
        if kv < SPARE_KV or queue < SPARE_QUEUE:
            return 1 if view.starting == 0 else 0
        count = len(view.latest.replicas)
        if count > 1 and len(sane) == count:
            kv, queue = self._spare(sane, count / (count - 1))
            return -1 if kv >= SPARE_KV and queue >= SPARE_QUEUE else 0
        return 0

    def _spare(self, sane: list[ReplicaSample], growth: float) -> tuple[float, float]:
        kv = sum(self._target - one.kv_usage * growth for one in sane) / len(sane)
        queue = sum(QUEUE_SATURATED - one.waiting * growth for one in sane) / len(sane)
        return kv, queue


class WvaTokens:
    """V2. Its capacity is a stock where a rate is meant, which shows when requests are short."""

    tick_s = 60.0
    lag_s = 15.0

    def __init__(self, bounds: Bounds, kv_tokens: int, target: float = 0.85) -> None:
        self._kv_tokens = kv_tokens
        self._target = target
        self._behavior = Behavior(bounds, _SPEED)
        self._saturated: deque[float] = deque(maxlen=10)

    def decide(self, view: FleetView) -> Decision:
        """One loop."""
        sample, window = view.latest, view.window(60.0)
        used = [one.kv_usage * self._kv_tokens for one in sample.replicas]
        pairs = zip(sample.replicas, used, strict=True)
        self._saturated.extend(tokens for one, tokens in pairs if one.waiting >= QUEUE_SATURATED)
        capacity = KV_SATURATED * self._kv_tokens
        if self._saturated:
            capacity = max(1.0, min(capacity, sum(self._saturated) / len(self._saturated)))
        mean_input = window.input_tokens / max(1, window.arrivals)
        demand = sum(used) + sample.waiting * mean_input
        wanted = view.desired
        supply = view.ready + view.starting
        if demand / self._target > supply * capacity:
            wanted += math.ceil((demand / self._target - supply * capacity) / capacity)
        elif view.ready * capacity > demand / DOWN_AT:
            wanted -= math.floor((view.ready * capacity - demand / DOWN_AT) / capacity)
        count = self._behavior.apply(view.now_s, view.desired, wanted)
        return Decision(count, f"demand {demand:.0f} tokens, {capacity:.0f} each: {wanted} wanted")
