"""Every policy by name: how it is made, its default target, and the targets of a sweep."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway_planner.control import ControlConfig
from headway_planner.coordinator import CoordinatorConfig
from headway_planner.model import ScaleConfig, TuneConfig
from headway_planner.rivals.aibrix import Aibrix
from headway_planner.rivals.bounds import Clairvoyant, schedule, work_bins
from headway_planner.rivals.dynamo import Dynamo
from headway_planner.rivals.hpa import Hpa
from headway_planner.rivals.keda import Keda
from headway_planner.rivals.kpa import Kpa
from headway_planner.rivals.slo_loop import SloLoop
from headway_planner.rivals.static import Static
from headway_planner.rivals.wva import WvaSaturation, WvaTokens
from headway_planner.sim.coordinated import ControlPolicy
from headway_planner.sim.jobs import ITL_TARGET_MS, TTFT_TARGET_MS, Arrival, Rank
from headway_planner.sim.policy import Policy
from headway_planner.sim.setup import Setup
from headway_planner.sim.signals import Bounds

CLAIRVOYANT, WORK_BOUND, OURS = "clairvoyant", "work-bound", "headway"
_IN_FLIGHT = (4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 144.0, 216.0)
_START_QUANTILE = 1.5  # a start of this many medians is longer than 91 % of them at a spread of 0.3


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy is made from. The arrivals are for the clairvoyant bound alone.

    `ttft_target_ms`: an objective that is not the class's own.
    """

    setup: Setup
    bounds: Bounds
    arrivals: Sequence[Arrival]
    strictest: Rank
    ttft_target_ms: float | None = None

    @property
    def ttft_ms(self) -> float:
        """The target of the strictest class that is present, unless another one is given."""
        return TTFT_TARGET_MS[self.strictest] if self.ttft_target_ms is None else self.ttft_target_ms

    @property
    def deadline_s(self) -> float:
        """The shortest deadline; infinite without one."""
        return min((one.deadline_s for one in self.arrivals), default=math.inf)

    @property
    def itl_ms(self) -> float:
        """Its target between tokens."""
        return ITL_TARGET_MS[self.strictest]


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy: `make(context, target)`; without a sweep the target means nothing."""

    make: Callable[[Context, float], Policy]
    default: float
    sweep: tuple[float, ...] = ()
    rival: bool = True


def _clairvoyant(context: Context, share: float) -> Policy:
    start_s = context.setup.start_delay_s * _START_QUANTILE
    bins = work_bins(context.setup.model, context.arrivals)
    return Clairvoyant(context.bounds, schedule(bins, share, context.setup.start_delay_s, context.bounds), start_s)


def _ours(context: Context, *, demand: bool) -> Policy:
    """The operator's loop in its one configuration for all traces; without `demand`, its measured rules alone."""
    bounds = context.bounds
    scale = ScaleConfig(
        min_replicas=bounds.min_replicas,
        max_replicas=bounds.max_replicas,
        ttft_target_ms=context.ttft_ms,
        itl_target_ms=context.itl_ms,
        up_window_s=0.0,
        up_step=bounds.max_replicas if demand else 4,
        up_period_s=60.0,
        down_window_s=60.0 if demand else 300.0,
        down_step=bounds.max_replicas if demand else 1,
        down_period_s=60.0,
    )
    tune = TuneConfig(
        seqs_min=1,
        seqs_max=bounds.seqs_max,
        tokens_min=1,
        tokens_max=bounds.tokens_max,
        ttft_target_ms=context.ttft_ms,
        itl_target_ms=context.itl_ms,
        cooldown_s=30.0,
    )
    coordinator = CoordinatorConfig(
        min_replicas=bounds.min_replicas,
        max_replicas=bounds.max_replicas,
        ttft_target_ms=context.ttft_ms,
        itl_target_ms=context.itl_ms,
        baseline=bounds.baseline,
        hold_s=scale.down_window_s,
        deadline_s=context.deadline_s,
    )
    config = ControlConfig(coordinator if demand else None, scale, tune)
    return ControlPolicy(bounds, config, context.setup.model.kv_tokens)


CATALOG: dict[str, Entry] = {
    OURS: Entry(lambda one, _: _ours(one, demand=True), 0.0, (), rival=False),
    "headway-reactive": Entry(lambda one, _: _ours(one, demand=False), 0.0, (), rival=False),
    "static": Entry(lambda one, count: Static(one.bounds, count), 0.0, (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)),
    "hpa": Entry(lambda one, target: Hpa(one.bounds, target), 16.0, _IN_FLIGHT),
    "keda": Entry(lambda one, target: Keda(one.bounds, target), 5.0, (0.5, 1.0, 2.0, 5.0, 10.0)),
    "knative": Entry(lambda one, target: Kpa(one.bounds, target), 100.0, tuple(one / 0.7 for one in _IN_FLIGHT)),
    "knative-300": Entry(
        lambda one, target: Kpa(one.bounds, target, 300.0), 100.0, tuple(one / 0.7 for one in _IN_FLIGHT)
    ),
    "aibrix": Entry(lambda one, target: Aibrix(one.bounds, target), 16.0, _IN_FLIGHT),
    "dynamo": Entry(
        lambda one, itl: Dynamo(one.bounds, one.setup.model, itl), 50.0, (9.0, 11.0, 14.0, 18.0, 25.0, 35.0, 50.0)
    ),
    "wva-v1": Entry(lambda one, target: WvaSaturation(one.bounds, target), 0.8, (0.15, 0.2, 0.3, 0.4, 0.6, 0.8)),
    "wva-v2": Entry(
        lambda one, target: WvaTokens(one.bounds, one.setup.model.kv_tokens, target),
        0.85,
        (0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.85),
    ),
    "llmd-slo": Entry(
        lambda one, target: SloLoop(one.bounds, one.ttft_ms, one.itl_ms, target), 0.55, (0.1, 0.15, 0.2, 0.3, 0.4, 0.55)
    ),
    CLAIRVOYANT: Entry(_clairvoyant, 0.6, (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0), rival=False),
}
