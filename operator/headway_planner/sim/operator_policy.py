"""The operator's own policy in the simulator: `headway_planner.policy.decide_both`, unchanged.

This is what `headway_operator.core.decide` does with a fleet in modes Auto and Auto: the samples of the last seconds become
load views, the status is this object's memory. Windows, steps and cooldown are the defaults of the API.
"""

from headway_planner.model import (
    Direction,
    Latency,
    LoadView,
    ScaleConfig,
    ScaleEvent,
    ScaleState,
    TuneConfig,
    TuneState,
)
from headway_planner.policy import PolicyConfig, PolicyState, Views, decide_both, direction_of
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView

CONTROL_WINDOW_S, OBJECTIVE_WINDOW_S, COOLDOWN_S, HISTORY = 15.0, 60.0, 30.0, 10
SHARE = 0.95


class OperatorPolicy:
    """`decide_both` with the memory that the status keeps."""

    tick_s = 2.0
    lag_s = 1.0

    def __init__(self, bounds: Bounds, ttft_target_ms: float, itl_target_ms: float) -> None:
        self._baseline = bounds.baseline
        self._scale = ScaleConfig(
            min_replicas=bounds.min_replicas,
            max_replicas=bounds.max_replicas,
            ttft_target_ms=ttft_target_ms,
            itl_target_ms=itl_target_ms,
            up_window_s=0.0,
            up_step=4,
            up_period_s=60.0,
            down_window_s=300.0,
            down_step=1,
            down_period_s=60.0,
        )
        self._tune = TuneConfig(
            seqs_min=1,
            seqs_max=bounds.seqs_max,
            tokens_min=1,
            tokens_max=bounds.tokens_max,
            ttft_target_ms=ttft_target_ms,
            itl_target_ms=itl_target_ms,
            cooldown_s=COOLDOWN_S,
        )
        self._history: tuple[ScaleEvent, ...] = ()
        self._recommended: int | None = None
        self._since_s: float | None = None
        self._last_change_s: float | None = None
        self._last_direction = Direction.NONE
        self._ready = 0
        self._joined_at_s: float | None = None

    def decide(self, view: FleetView) -> Decision:
        """One pass."""
        quiet = not _load(view, OBJECTIVE_WINDOW_S, quiet=False).active
        load = _load(view, CONTROL_WINDOW_S, quiet)
        if view.ready > self._ready:
            self._joined_at_s = view.now_s
        self._ready = view.ready
        scale = ScaleState(
            desired=view.desired,
            warming=view.starting,
            recommended=self._recommended,
            recommended_since_s=self._since_s,
            history=self._history,
            limits=view.limits,
            baseline_seqs=self._baseline.seqs,
            joined_at_s=self._joined_at_s,
        )
        tune = TuneState(view.limits, self._baseline, self._last_change_s, self._last_direction)
        config, state = PolicyConfig(self._scale, self._tune), PolicyState(scale, tune)
        found = decide_both(Views(load, load), config, state, view.now_s)
        if found.scale is None or found.tune is None:
            raise RuntimeError("both actuators were asked")
        if found.tune.limits != view.limits:
            self._last_change_s, self._last_direction = view.now_s, direction_of(view.limits, found.tune.limits)
        if found.scale.replicas != view.desired:
            event = ScaleEvent(view.now_s, view.desired, found.scale.replicas)
            self._history = (event, *self._history)[:HISTORY]
        self._recommended, self._since_s = found.scale.recommended, found.scale.since_s
        return Decision(found.scale.replicas, found.scale.reason, found.tune.limits)


def _load(view: FleetView, span_s: float, quiet: bool) -> LoadView:
    window, samples = view.window(span_s), view.samples(span_s)
    last = window.last
    count = len(samples)
    waiting = sum(sum(one.waiting for one in sample.replicas) for sample in samples) / count
    running = sum(sample.running for sample in samples) / count
    prompt = last.prefilled_tokens - window.first.prefilled_tokens
    output = last.output_tokens - window.first.output_tokens
    arrivals = window.arrivals
    return LoadView(
        serving=view.ready,
        reporting=len(last.replicas),
        span_s=window.span_s,
        waiting=waiting,
        running=running,
        busiest_running=max((one.running for one in last.replicas), default=0),
        kv_usage=max((one.kv_usage for one in last.replicas), default=0.0),
        arrivals=arrivals,
        finished=window.finished,
        prompt_share=prompt / (prompt + output) if prompt + output else 0.0,
        active=arrivals > 0 or any(sample.in_flight for sample in samples),
        quiet=quiet,
        **{
            name: _latency(window.quantile(name, SHARE), window.quantile(name, 0.5), window.count(name))
            for name in _NAMES
        },
    )


_NAMES = ("ttft", "queue_wait", "prefill", "itl")


def _latency(high_ms: float | None, median_ms: float | None, count: int) -> Latency:
    return Latency(high_ms, median_ms, count)
