"""The operator's own control loop in the simulator: `headway_planner.control`, unchanged.

This is what `headway_operator.core.decide` does with a fleet in modes Auto and Auto: the samples of the last seconds become
an intake and load views, the status is this object's memory. The step model is learnt from the samples, as the operator
learns it: the coefficients of the simulated engine are not looked at.

Requests with a deadline are taken out of the demand and of the views, as the operator takes out the batch work of a shared
fleet, and handed to the coordinator apart.
"""

from dataclasses import replace

from headway_planner.budget import FirstTokens
from headway_planner.control import CONTROL_WINDOW_S, ControlConfig, ControlMemory, Sight, control
from headway_planner.coordinator import CoordinatorConfig, Intake, Totals
from headway_planner.deferred import Deferred, Lengths
from headway_planner.identify import StepsDone
from headway_planner.model import BatchLimits, Latency, LoadView, ScaleEvent, ScaleState, TuneState
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import (
    Bounds,
    Counts,
    FleetView,
    ReplicaSample,
    Sample,
    Window,
    above,
    quantile,
)

OBJECTIVE_WINDOW_S, HISTORY = 60.0, 10
NEWEST = 20  # starts that the start time is taken from
SHARE = 0.95
LATENCIES = ("ttft", "queue_wait", "prefill", "itl")


class ControlPolicy:
    """`control` with the memory that the operator process and the status keep."""

    tick_s = 2.0
    lag_s = 1.0

    def __init__(self, bounds: Bounds, config: ControlConfig, kv_tokens: int) -> None:
        self._baseline = bounds.baseline
        self._config = config
        self._kv_tokens = kv_tokens
        self._memory = ControlMemory()
        self._done: StepsDone | None = None  # counters of the last pass
        # Of the requests with a deadline: all that were counted by the last pass, and the newest of them.
        self._counted = self._lengths = Lengths()
        self._history: tuple[ScaleEvent, ...] = ()
        self._recommended: int | None = None
        self._since_s: float | None = None
        self._last_change_s: float | None = None
        self._limits_before: BatchLimits | None = None
        self._ready = 0
        self._joined_at_s: float | None = None

    def decide(self, view: FleetView) -> Decision:
        """One pass."""
        load = _load(view, CONTROL_WINDOW_S)
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
        tune = TuneState(view.limits, self._baseline, self._last_change_s, self._limits_before)
        sight = Sight(self._intake(view), load, load)
        found, self._memory = control(sight, self._config, (scale, tune), self._memory, view.now_s)
        if found.scale is None or found.tune is None:
            raise RuntimeError("both actuators were asked")
        if found.tune.limits != view.limits:
            self._last_change_s, self._limits_before = view.now_s, view.limits
        if found.scale.replicas != view.desired:
            event = ScaleEvent(view.now_s, view.desired, found.scale.replicas)
            self._history = (event, *self._history)[:HISTORY]
        self._recommended, self._since_s = found.scale.recommended, found.scale.since_s
        return Decision(found.scale.replicas, found.scale.reason, found.tune.limits)

    def _intake(self, view: FleetView) -> Intake:
        sample = view.latest
        count = len(sample.replicas)
        silent = sample.serving / count if count else 1.0  # what did not answer is taken to be like the rest
        before = self._done
        made = sample.counts
        self._done = StepsDone(made.steps, made.output_tokens, made.prefilled_tokens, made.busy_ms)
        done = () if before is None else (_difference(self._done, before),)
        online = _online(sample)
        came = online.counts
        return Intake(
            at_s=sample.at_s,
            desired=view.desired,
            serving=view.ready,
            totals=Totals(
                arrivals=came.arrivals,
                input_tokens=came.input_tokens,
                input_squares=came.input_squares,
                finished=came.finished,
                output_tokens=came.output_tokens,
                first=_first(came, self._config.demand),
            ),
            running=silent * online.running,
            waiting=online.held + silent * sum(one.waiting for one in online.replicas),
            queued_tokens=silent * sum(one.queued_tokens for one in online.replicas),
            stale=sample.serving > 0 and 2 * count < sample.serving,
            kv_tokens=self._kv_tokens,
            kv_used=silent * self._kv_tokens * sum(one.kv_usage for one in online.replicas),
            done=done,
            starts=view.starts[-NEWEST:],
            deferred=self._deferred(sample, silent, view.limits.seqs),
        )

    def _deferred(self, sample: Sample, silent: float, slots: int) -> Deferred | None:
        """With the mean lengths of the newest requests, as the operator has them. `slots`: of one replica."""
        found = _deferred(sample, silent)
        if found is None:
            return None
        answered = found.finished + found.running / 2
        counted, before = Lengths(found.arrivals, found.input_tokens, answered, found.output_tokens), self._counted
        grown = Lengths(
            counted.admitted - before.admitted,
            counted.prompt_tokens - before.prompt_tokens,
            counted.answered - before.answered,
            counted.output_tokens - before.output_tokens,
        )
        self._counted, self._lengths = counted, self._lengths.renewed(grown, slots * sample.serving)
        inputs, outputs = self._lengths.means
        return replace(found, input_tokens=found.arrivals * inputs, output_tokens=max(1.0, answered) * outputs)


def _first(counts: Counts, demand: CoordinatorConfig | None) -> FirstTokens:
    if demand is None:
        return FirstTokens()
    target_ms = demand.ttft_target_ms
    return FirstTokens(sum(counts.ttft), above(counts.ttft, target_ms), above(counts.queue_wait, target_ms / 2))


def _online(sample: Sample) -> Sample:
    """A sample without the requests that have a deadline. The KV cache does not tell whose tokens it holds."""
    apart, gauges = sample.deferred, _online_gauges(sample)
    return gauges if apart is None else replace(gauges, counts=sample.counts.less(apart.counts))


def _online_gauges(sample: Sample) -> Sample:
    """The gauges alone; the counts are still those of all requests."""
    apart = sample.deferred
    if apart is None:
        return sample
    return replace(
        sample, replicas=tuple(_online_replica(one) for one in sample.replicas), held=sample.held - apart.held
    )


def _online_replica(one: ReplicaSample) -> ReplicaSample:
    apart = one.deferred
    if apart is None:
        return one
    running = max(0, one.running - apart.running)
    return ReplicaSample(
        running=running,
        waiting=max(0, one.waiting - apart.waiting),
        kv_usage=one.kv_usage * running / one.running if one.running else one.kv_usage,
        queued_tokens=max(0, one.queued_tokens - apart.queued_tokens),
    )


def _deferred(sample: Sample, silent: float) -> Deferred | None:
    """`silent`: replicas that serve over those that answered."""
    apart = sample.deferred
    if apart is None:
        return None
    gauges = [one.deferred for one in sample.replicas if one.deferred is not None]
    return Deferred(
        arrivals=apart.counts.arrivals,
        input_tokens=apart.counts.input_tokens,
        finished=apart.counts.finished,
        output_tokens=apart.counts.output_tokens,
        running=silent * sum(one.running for one in gauges),
        waiting=apart.held + silent * sum(one.waiting for one in gauges),
        queued_tokens=apart.held_tokens + silent * sum(one.queued_tokens for one in gauges),
    )


def _difference(after: StepsDone, before: StepsDone) -> StepsDone:
    return StepsDone(
        after.steps - before.steps,
        after.output_tokens - before.output_tokens,
        after.prompt_tokens - before.prompt_tokens,
        after.busy_ms - before.busy_ms,
    )


def _load(view: FleetView, span_s: float) -> LoadView:
    samples = [_online_gauges(one) for one in view.samples(span_s)]
    seen = view.window(span_s)
    window = Window(_online(seen.first), _online(seen.last))
    last = window.last
    count = len(samples)
    waiting = sum(sum(one.waiting for one in sample.replicas) for sample in samples) / count
    running = sum(sample.running for sample in samples) / count
    prompt, output = window.prefilled_tokens, window.output_tokens
    return LoadView(
        serving=view.ready,
        reporting=len(last.replicas),
        span_s=window.span_s,
        waiting=waiting,
        emptied=len(last.replicas) == view.ready and not any(one.waiting for one in samples[-1].replicas),
        running=running,
        busiest_running=max((one.running for one in last.replicas), default=0),
        kv_usage=max((one.kv_usage for one in last.replicas), default=0.0),
        arrivals=window.arrivals,
        finished=window.finished,
        prompt_share=prompt / (prompt + output) if prompt + output else 0.0,
        active=_active(view, span_s),
        quiet=not _active(view, OBJECTIVE_WINDOW_S),
        **{name: _latency(window.histogram(name)) for name in LATENCIES},
    )


def _active(view: FleetView, span_s: float) -> bool:
    """Whether anything came or was there, requests with a deadline apart."""
    seen = view.window(span_s)
    came = _arrivals(seen.last) - _arrivals(seen.first)
    return came > 0 or any(_online_gauges(one).in_flight for one in view.samples(span_s))


def _arrivals(sample: Sample) -> int:
    apart = sample.deferred
    return sample.counts.arrivals - (0 if apart is None else apart.counts.arrivals)


def _latency(counts: list[int]) -> Latency:
    return Latency(quantile(counts, SHARE), quantile(counts, 0.5), sum(counts))
