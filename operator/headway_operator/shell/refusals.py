"""Pods that the API server refused to create, by fleet: a quota, an admission policy, a template that is no pod.

The refusal itself is remembered, because the API server keeps no trace of it: the next pass reports it in the fleet's
conditions. Creation is then tried again after 5 s, 10 s, ... and each minute at last; everything else goes on meanwhile.
"""

from dataclasses import dataclass

from headway_operator.shell.kube import FleetKey

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why, and when creation may be tried again."""

    message: str
    wait_s: float
    retry_at_s: float


class Refusals:
    """What was refused and not accepted since. Times are on the caller's clock."""

    def __init__(self) -> None:
        self._by_fleet: dict[FleetKey, Refusal] = {}

    def get(self, key: FleetKey) -> Refusal | None:
        """The last refusal, None when there is none."""
        return self._by_fleet.get(key)

    def add(self, key: FleetKey, message: str, now_s: float) -> bool:
        """Remember one; returns whether it says something new."""
        before = self._by_fleet.get(key)
        wait_s = FIRST_WAIT_S if before is None else min(2 * before.wait_s, LONGEST_WAIT_S)
        self._by_fleet[key] = Refusal(message, wait_s, now_s + wait_s)
        return before is None or before.message != message

    def clear(self, key: FleetKey) -> None:
        """A pod was created, or the fleet is gone."""
        self._by_fleet.pop(key, None)
