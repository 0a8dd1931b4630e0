"""llm-d's SLO-aware loop: a Prometheus ratio of latency over objective, KEDA, and a slow HPA.

    s_raw = max(P90 TTFT / TTFT objective, P90 TPOT / TPOT objective)       rates of 1 min, every 15 s, no traffic: 0
    s     = mean over 45 s of min(s_raw, 2)                                 clamped first: past the knee it spikes
    c     = ready / provisioned while replicas start, else 1
    want  = n + ceil(n (s c / 0.55 - 1)) when s > 0.55; n - floor(n (1 - s / 0.40)) when s < 0.40; else n

HPA: up max(100 %, 4) per 60 s after a window of 30 s; down 1 per 120 s after 180 s.

Source: llm-d's guide "workload-autoscaling", its SLO-aware variant, which also has the published run: 95.8 % at 5.93 replicas.
"""

import math
from collections import deque

from headway_planner.rivals.behavior import Behavior, Speed
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView

CLAMP, MEAN_TICKS = 2.0, 3


class SloLoop:
    """The loop, for one pair of objectives."""

    tick_s = 15.0
    lag_s = 15.0

    def __init__(self, bounds: Bounds, ttft_ms: float, tpot_ms: float, target: float = 0.55) -> None:
        self._ttft_ms, self._tpot_ms = ttft_ms, tpot_ms
        self._up, self._down = target, target * 0.40 / 0.55
        self._recent: deque[float] = deque(maxlen=MEAN_TICKS)
        speed = Speed(30.0, 1.0, 4, 60.0, 180.0, 0.0, 1, 120.0)
        self._behavior = Behavior(bounds, speed)

    def decide(self, view: FleetView) -> Decision:
        """One evaluation."""
        window = view.window(60.0)
        ttft = (window.quantile("ttft", 0.9) or 0.0) / self._ttft_ms
        tpot = (window.quantile("tpot", 0.9) or 0.0) / self._tpot_ms
        self._recent.append(min(max(ttft, tpot), CLAMP))
        score = sum(self._recent) / len(self._recent)
        credit = view.ready / view.desired if 0 < view.ready < view.desired else 1.0
        wanted = want(view.desired, score, credit, (self._up, self._down))
        count = self._behavior.apply(view.now_s, view.desired, wanted)
        return Decision(count, f"score {score:.2f}, credit {credit:.2f}: {wanted} wanted")


def want(replicas: int, score: float, credit: float, thresholds: tuple[float, float] = (0.55, 0.40)) -> int:
    """The rule without the HPA behind it."""
    up, down = thresholds
    if score > up:
        return max(replicas, replicas + math.ceil(replicas * (score * credit / up - 1)))
    if score < down:
        return replicas - math.floor(replicas * (1 - score / down))
    return replicas
