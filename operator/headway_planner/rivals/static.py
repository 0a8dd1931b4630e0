"""A fixed number of replicas; by default the count that the fleet begins with."""

from headway_planner.sim.policy import Decision
from headway_planner.sim.signals import Bounds, FleetView


class Static:
    """Decides nothing."""

    tick_s = 60.0
    lag_s = 0.0

    def __init__(self, bounds: Bounds, count: float = 0.0) -> None:
        """`count`: the replicas; 0 keeps what there is."""
        self._bounds = bounds
        self._count = count

    def decide(self, view: FleetView) -> Decision:
        """The same count for ever."""
        return Decision(self._bounds.clamp(self._count or view.desired), "static")
