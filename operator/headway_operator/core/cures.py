"""Cures in the words of the API: which field to change, from which value, and who owns it now."""

import math

from headway_operator.api.v1alpha1 import ScalingMode, TuningMode, tuning_bounds
from headway_operator.core.evidence import Evidence
from headway_planner.scale import MEASURED_UTILIZATION, replicas


def more_sequences(evidence: Evidence) -> str:
    """Let each engine run more sequences at once."""
    spec, limit = evidence.spec, evidence.limits.max_num_seqs
    capacity = spec.engine.capacity.max_num_seqs
    if limit >= capacity:
        return (
            f"raise spec.engine.capacity.maxNumSeqs above {capacity} (pods are replaced one by one), or "
            f"{more_replicas(evidence)}"
        )
    wanted = min(2 * limit, capacity)
    if spec.tuning.mode is not TuningMode.AUTO:
        return (
            f"raise spec.engine.limits.maxNumSeqs from {limit} to {wanted} (live, no pod restarts), or set "
            "spec.tuning.mode Auto"
        )
    most = min(tuning_bounds(spec)[0].max, capacity)
    if limit >= most:
        return f"raise spec.tuning.bounds.maxNumSeqs.max above {most} (capacity {capacity}; live)"
    cooldown_s = spec.tuning.cooldown_seconds
    return f"tuning may raise it to {most}, one change in {cooldown_s} s: status.tuning.reason says what holds it"


def more_replicas(evidence: Evidence) -> str:
    """Let more engines share the load."""
    spec, supply, view = evidence.spec, evidence.supply, evidence.view
    count = view.serving + supply.warming + supply.blocked
    about = f", to about {needed}" if (needed := _needed(evidence)) is not None and needed > count else ""
    if supply.blocked:
        return f"make room on the nodes: no place for {replicas(supply.blocked)}"
    if supply.warming:
        return f"wait for {replicas(supply.warming)} to start"
    match spec.scaling.mode:
        case ScalingMode.AUTO if spec.scaling.max_replicas is not None and count >= spec.scaling.max_replicas:
            return f"raise spec.scaling.maxReplicas above {spec.scaling.max_replicas}{about}"
        case ScalingMode.AUTO:
            return f"scaling may go to {spec.scaling.max_replicas} replicas: status.scaling.reason says what holds it"
        case ScalingMode.EXTERNAL:
            return f"let the autoscaler that owns spec.replicas ask for more than {count}{about}"
        case ScalingMode.OFF | ScalingMode.ADVISORY:
            return f"raise spec.replicas above {count}{about}, or set spec.scaling.mode Auto"


def _needed(evidence: Evidence) -> int | None:
    """Replicas for the arrivals of the window at the rate that each finishes requests; None on too few."""
    each, view = evidence.rate_each, evidence.view
    if each is None:
        return None
    arrivals = view.arrivals / evidence.window_s * view.serving / view.reporting
    return math.ceil(arrivals / (MEASURED_UTILIZATION * each))
