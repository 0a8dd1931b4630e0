"""A request-level simulator of a fleet: discrete events, one seed, no clock and no I/O.

`fleet.simulate` runs jobs through replicas (`replica.py`, driven by `headway_planner.steps`) while a policy decides on the
count and the limits from what it can see (`signals.py`). Policies are those of `headway_planner.rivals` and the operator's
own, which runs here unchanged (`coordinated.py`).
"""
