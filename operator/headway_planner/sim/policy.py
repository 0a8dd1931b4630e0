"""What every policy of the simulator is: a name, a rhythm, and an answer to a view.

A policy object keeps its own memory between the calls of one run; a new run gets a new object. The same view sequence
gives the same answers.
"""

from dataclasses import dataclass
from typing import Protocol

from headway_planner.model import BatchLimits
from headway_planner.sim.signals import FleetView


@dataclass(frozen=True, slots=True)
class Decision:
    """The replicas wanted, the limits wanted (None: leave them), and why."""

    replicas: int
    reason: str
    limits: BatchLimits | None = None


class Policy(Protocol):
    """A policy under simulation.

    Attributes:
        tick_s: time between two decisions.
        lag_s: age of the newest sample that it sees.
    """

    @property
    def tick_s(self) -> float:
        """See above."""
        ...

    @property
    def lag_s(self) -> float:
        """See above."""
        ...

    def decide(self, view: FleetView) -> Decision:
        """The answer for this moment, inside the bounds that the policy was made with."""
        ...
