"""NVIDIA Dynamo planner (2026), aggregated engines: the throughput loop and the load loop.

Throughput, every 180 s: replicas = ceil(rate of the window / rate of one engine at these lengths and objectives), the latter
from a profile; ours comes from the step model, which flatters it, since it is exact here. With load scaling on it is a floor.
Load, every 5 s, always one replica, nothing while replicas start: +1 when every engine predicts a TTFT or ITL over its
objective; -1 when on every engine the queue part at load * n / (n - 1) stays under 80 % of (objective - own compute), and KV
and ITL fit. Predictions here use the step model instead of its regression on 5-64 samples. Defaults: TTFT 500 ms, ITL 50 ms.

Source: ai-dynamo/dynamo, components/src/dynamo/planner (core/throughput_scaling.py, core/load_scaling.py, config/defaults.py).
"""

import math

from headway_planner.capacity import Mix, prefill_s, sustained
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView, ReplicaSample
from headway_planner.steps import StepModel

THROUGHPUT_S, DOWN_SHARE, KV_FITS = 180.0, 0.8, 0.9


class Dynamo:
    """Both loops."""

    tick_s = 5.0
    lag_s = 5.0

    def __init__(
        self, bounds: Bounds, model: StepModel, itl_ms: float = 50.0, target: float = 500.0, load_loop: bool = True
    ) -> None:
        """`target`: the TTFT objective, milliseconds."""
        self._bounds = bounds
        self._model = model
        self._ttft_ms, self._itl_ms = target, itl_ms
        self._load_loop = load_loop
        self._floor = bounds.min_replicas
        self._next_s = THROUGHPUT_S
        self._mix = Mix(1000.0, 200.0)

    def decide(self, view: FleetView) -> Decision:
        """One tick of the load loop, and of the throughput loop when it is due."""
        due = view.now_s >= self._next_s
        if due:
            self._next_s += THROUGHPUT_S
            self._floor = self._throughput(view)
        if not self._load_loop:
            return Decision(self._floor if due else self._bounds.clamp(view.desired), f"throughput wants {self._floor}")
        if view.desired < self._floor:
            return Decision(self._floor, f"below the floor of {self._floor}")
        step = 0 if view.starting else self._load(view)
        count = self._bounds.clamp(max(view.desired + step, self._floor))
        return Decision(count, f"load loop {step:+d}, floor {self._floor}")

    def _throughput(self, view: FleetView) -> int:
        window = view.window(THROUGHPUT_S)
        if not window.arrivals or window.span_s <= 0:
            return self._bounds.min_replicas
        inputs = window.input_tokens / window.arrivals
        outputs = window.output_tokens / max(1, window.finished)
        self._mix = Mix(inputs, max(1.0, outputs))
        each = sustained(self._model, self._mix, self._bounds.baseline, self._itl_ms).rate
        return self._bounds.clamp(math.ceil(window.rate(window.arrivals) / each))

    def _load(self, view: FleetView) -> int:
        engines = view.latest.replicas
        if not engines:
            return 0
        if all(self._breaches(one) for one in engines):
            return 1
        count = len(engines)
        if count > 1 and all(self._has_room(one, count / (count - 1)) for one in engines):
            return -1
        return 0

    def _own_ms(self) -> float:
        return self._model.prefill_ms(round(self._mix.inputs), self._bounds.baseline.tokens)

    def _queue_ms(self, queued_tokens: float) -> float:
        each = prefill_s(self._model, self._mix, self._bounds.baseline.tokens) / max(1.0, self._mix.inputs)
        return 1000 * each * queued_tokens

    def _breaches(self, one: ReplicaSample) -> bool:
        context = one.kv_usage * self._model.kv_tokens
        late = self._queue_ms(one.queued_tokens) + self._own_ms() > self._ttft_ms
        return late or self._model.decode_ms(one.running, context) > self._itl_ms

    def _has_room(self, one: ReplicaSample, growth: float) -> bool:
        context = one.kv_usage * self._model.kv_tokens * growth
        slack = DOWN_SHARE * (self._ttft_ms - self._own_ms())
        fits = one.kv_usage * growth <= KV_FITS
        return (
            fits
            and self._queue_ms(one.queued_tokens * growth) < slack
            and (self._model.decode_ms(math.ceil(one.running * growth), context) <= self._itl_ms)
        )
