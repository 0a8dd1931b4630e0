"""A small fleet in modes Auto and Auto that has been under load for some time."""

from fleet_world import World, spec
from toy_traffic import Traffic

SCALING = {
    "mode": "Auto",
    "minReplicas": 1,
    "maxReplicas": 3,
    "scaleDown": {"stabilizationWindowSeconds": 20, "periodSeconds": 10},
}
TUNING = {"mode": "Auto", "cooldownSeconds": 10, "leaseSeconds": 60}
SLO = {"workloadClass": "interactive", "windowSeconds": 30, "interTokenLatency": {"targetMilliseconds": 200}}
CALM_S = 10


def loaded(seconds: int, rate: float = 4.0) -> tuple[World, Traffic]:
    """The fleet after `CALM_S` without traffic and `seconds` with `rate` requests/s."""
    world = World(spec(slo=SLO, scaling=SCALING, tuning=TUNING), boot_s=6)
    traffic = Traffic(world)
    for second in range(CALM_S + seconds):
        traffic.rate = rate if second >= CALM_S else 0.0
        traffic.second()
    return world, traffic


def desired(world: World) -> int:
    """The count that the status holds."""
    return int(world.status["scaling"]["desiredReplicas"])
