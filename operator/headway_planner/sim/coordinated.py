"""The coordinator in the simulator: samples in, its answer out, its memory kept."""

from headway_planner.coordinator import CoordinatorConfig, Intake, Memory, coordinate
from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import FleetView


class CoordinatorPolicy:
    """`coordinate` with the memory that an operator process keeps."""

    tick_s = 1.0
    lag_s = 1.0

    def __init__(self, config: CoordinatorConfig) -> None:
        self._config = config
        self._memory = Memory()

    def decide(self, view: FleetView) -> Decision:
        """One second."""
        sample = view.latest
        count = len(sample.replicas)
        silent = sample.serving / count if count else 1.0  # what did not answer is taken to be like the rest
        intake = Intake(
            at_s=view.now_s,
            desired=view.desired,
            serving=view.ready,
            arrivals=sample.arrivals,
            input_tokens=sample.input_tokens,
            input_squares=sample.input_squares,
            finished=sample.finished,
            output_tokens=sample.output_tokens,
            waiting=round(sample.held + silent * sum(one.waiting for one in sample.replicas)),
            queued_tokens=round(silent * sum(one.queued_tokens for one in sample.replicas)),
            stale=sample.serving > 0 and 2 * count < sample.serving,
        )
        answer, self._memory = coordinate(intake, self._config, self._memory)
        return Decision(answer.replicas, answer.reason, answer.limits)
