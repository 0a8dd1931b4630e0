"""For each alert: series with which it fires, and series with which it does not."""

from dataclasses import dataclass

FLEET = 'namespace="apps",fleet="chat"'


@dataclass(frozen=True, slots=True)
class Case:
    """One alert at one time. Series are promtool's notation, a sample every 30 s."""

    alert: str
    at: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: tuple[tuple[str, str], ...] = ()


def _burn(latency: str, series: str, kind: str, speed: str) -> Case:
    labels = f'{{{FLEET},workload_class="{kind}"}}'
    seen, target = f"headway_fleet_{series}_seconds{labels}", f"headway_fleet_{series}_target_seconds{labels}"
    return Case(
        alert=f"Headway{latency}Burn{speed}",
        at="10h",
        # Missed in the last five hours; and missed in four of them, but well in the last.
        fires={seen: "0.2x599 2x700", target: "1x1300"},
        quiet={seen: "0.2x599 2x479 0.2x240", target: "1x1300"},
        labels=(("workload_class", kind),),
    )


BURNS = tuple(
    _burn(latency, series, kind, speed)
    for latency, series in (("TTFT", "ttft"), ("ITL", "inter_token_latency"))
    for kind in ("realtime", "interactive", "batch")
    for speed in ("Fast", "Slow")
)
STATES = (
    Case(
        *("HeadwayQueueSaturated", "10m"),
        {
            f"headway_fleet_waiting_requests{{{FLEET}}}": "90x30",
            f"headway_fleet_queue_limit_requests{{{FLEET}}}": "100x30",
        },
        {
            f"headway_fleet_waiting_requests{{{FLEET}}}": "70x30",
            f"headway_fleet_queue_limit_requests{{{FLEET}}}": "100x30",
        },
    ),
    Case(
        *("HeadwayRequestsRefused", "20m"),
        {'headway_engine_admission_rejections_total{model_name="m",reason="queue_full"}': "0+30x60"},
        {'headway_engine_admission_rejections_total{model_name="m",reason="invalid"}': "0+30x60"},
    ),
    Case(
        *("HeadwayDeadlinesMissed", "10m"),
        {f"headway_fleet_deadline_late_requests{{{FLEET}}}": "3x30"},
        {f"headway_fleet_deadline_late_requests{{{FLEET}}}": "0x30"},
    ),
    Case(
        *("HeadwayDeadlineAtRisk", "20m"),
        {f"headway_fleet_deadline_spare_seconds{{{FLEET}}}": "-30x60"},
        {f"headway_fleet_deadline_spare_seconds{{{FLEET}}}": "30x60"},
    ),
    Case(
        *("HeadwayNoReadyReplica", "10m"),
        {
            f"headway_fleet_desired_replicas{{{FLEET}}}": "3x30",
            f"headway_fleet_ready_replicas{{{FLEET}}}": "0x30",
            f'headway_fleet_condition{{{FLEET},condition="Ready",reason="OutOfMemory"}}': "0x30",
        },
        {f"headway_fleet_desired_replicas{{{FLEET}}}": "0x30", f"headway_fleet_ready_replicas{{{FLEET}}}": "0x30"},
    ),
    # Between two leaders nobody exports the fleet, here when the rule is evaluated; a gap that is longer begins the hold anew.
    Case(
        *("HeadwayNoReadyReplica", "10m"),
        {
            f"headway_fleet_desired_replicas{{{FLEET}}}": "3x8 stale _ 3x20",
            f"headway_fleet_ready_replicas{{{FLEET}}}": "0x8 stale _ 0x20",
        },
        {
            f"headway_fleet_desired_replicas{{{FLEET}}}": "3x4 stale _x6 3x20",
            f"headway_fleet_ready_replicas{{{FLEET}}}": "0x4 stale _x6 0x20",
        },
    ),
    Case(
        *("HeadwayTuningUnacknowledged", "10m"),
        {
            f"headway_fleet_ready_replicas{{{FLEET}}}": "3x30",
            f"headway_fleet_tuning_applied_replicas{{{FLEET}}}": "1x30",
        },
        {
            f"headway_fleet_ready_replicas{{{FLEET}}}": "3x30",
            f"headway_fleet_tuning_applied_replicas{{{FLEET}}}": "3x30",
        },
    ),
    Case(
        *("HeadwayMetricsStale", "10m"),
        {f"headway_fleet_sample_age_seconds{{{FLEET}}}": "45x30"},
        {f"headway_fleet_sample_age_seconds{{{FLEET}}}": "2x30"},
    ),
    Case(
        *("HeadwayScalingLimited", "20m"),
        {
            f'headway_fleet_condition{{{FLEET},condition="ScalingLimited",reason="MaxReplicas"}}': "1x60",
        },
        {f'headway_fleet_condition{{{FLEET},condition="ScalingLimited",reason="StepLimit"}}': "1x60"},
        (("reason", "MaxReplicas"),),
    ),
    Case(
        *("HeadwayNoLeader", "10m"),
        {'headway_operator_leader{pod="a"}': "0x30", 'headway_operator_leader{pod="b"}': "0x30"},
        {'headway_operator_leader{pod="a"}': "0x30", 'headway_operator_leader{pod="b"}': "1x30"},
    ),
)
CASES = (*BURNS, *STATES)
