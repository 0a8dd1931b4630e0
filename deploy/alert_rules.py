"""The alerts, as data: one place for the plain rule file and for the chart's PrometheusRule, which holds the same text.

`python3 deploy/manifests.py` writes them to deploy/alerts/headway.rules.yaml. Only standard library: that command runs
without the project's environment. JSON strings are YAML strings, so quoting is JSON's.

A burn is the share of a window in which the observed percentile was above its target, over the share that the class may
miss. Both a long and a short window must burn: the long one shows that it matters, the short one that it still goes on.
Source of the factors: "Alerting on SLOs" in The Site Reliability Workbook (14.4 for 1 h and 5 min, 6 for 6 h and 30 min).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

RUNBOOK = "docs/how-to/alerts.md"
_HEADER = "# Generated from deploy/alert_rules.py by `make manifests`. Do not edit.\n"
_STEP_S = 30
# Longer than a Lease takes to change hands (15 s) with two scrapes of the ServiceMonitor's default interval.
_HANDOVER = "2m"
# Share of time in which the percentile may lie above its target.
BUDGET = {"realtime": 0.01, "interactive": 0.01, "batch": 0.05}
_BY_CLASS = "namespace, fleet, workload_class"
_BY_FLEET = "namespace, fleet"
_EXPLAIN = "`headway explain {{ $labels.fleet }} -n {{ $labels.namespace }}`"
_OF = "{{ $labels.namespace }}/{{ $labels.fleet }}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. `hold` is Prometheus's `for`; `cure` ends the description."""

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    cause: str
    cure: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows with the factor that both must exceed."""

    name: str
    factor: float
    windows: tuple[tuple[str, int], tuple[str, int]]  # as Prometheus writes them, and in seconds
    severity: str


FAST = Burn("Fast", 14.4, (("1h", 3600), ("5m", 300)), "critical")
SLOW = Burn("Slow", 6.0, (("6h", 21600), ("30m", 1800)), "warning")
LATENCIES = (
    ("TTFT", "ttft", "time to first token", "Look at the queue: raise scaling.maxReplicas when scaling is limited."),
    (
        *("ITL", "inter_token_latency", "time between tokens"),
        "Lower tuning.bounds.maxNumSeqs.max or engine.limits.maxNumBatchedTokens, or use profile LowTail.",
    ),
)


def burn_alerts() -> Iterator[Alert]:
    """One alert for each class, latency and pair of windows."""
    for kind, budget in BUDGET.items():
        for short, series, words, cure in LATENCIES:
            for burn in (FAST, SLOW):
                share = burn.factor * budget
                (long, _), (brief, _) = burn.windows
                yield Alert(
                    name=f"Headway{short}Burn{burn.name}",
                    expr=" and ".join(_missed(series, kind, window, share) for window in burn.windows),
                    hold="2m" if burn is FAST else "15m",
                    severity=burn.severity,
                    summary=f"{_OF} misses its {words} ({kind})",
                    cause=f"The observed percentile of the {words} was above its target for "
                    f"{{{{ $value | humanizePercentage }}}} of the last {long}, and it still is in the last {brief}. "
                    f"Class {kind} may miss {budget:.0%} of the time; this is more than {burn.factor:g} times as fast.",
                    cure=f"{cure} {_EXPLAIN} has the numbers.",
                    labels=(("workload_class", kind),),
                )


def _missed(series: str, kind: str, window: tuple[str, int], share: float) -> str:
    """Share of the whole window with a miss: time without traffic counts as well, so a lone slow request is no burn."""
    labels = f'{{workload_class="{kind}"}}'
    text, seconds = window
    seen = f"max by ({_BY_CLASS}) (headway_fleet_{series}_seconds{labels})"
    target = f"max by ({_BY_CLASS}) (headway_fleet_{series}_target_seconds{labels})"
    return f"sum_over_time(({seen} > bool {target})[{text}:{_STEP_S}s]) / {seconds // _STEP_S} > {share:g}"


def _fleet(series: str, labels: str = "", by: str = _BY_FLEET) -> str:
    """The figure of a fleet, also while the next leader takes over: a gap would end the alert, and begin its hold anew."""
    return f"max by ({by}) (last_over_time(headway_fleet_{series}{labels}[{_HANDOVER}]))"


def _reason(condition: str) -> str:
    """A template for the reason of a condition, as Prometheus fills it in."""
    query = f"headway_fleet_condition{{condition='{condition}',namespace='%s',fleet='%s'}}"
    return (
        f'{{{{ range printf "{query}" $labels.namespace $labels.fleet | query }}}}{{{{ .Labels.reason }}}}{{{{ end }}}}'
    )


STATE_ALERTS = (
    Alert(
        *("HeadwayQueueSaturated", f"{_fleet('waiting_requests')} / ({_fleet('queue_limit_requests')} > 0) > 0.8"),
        *("5m", "warning", f"{_OF}: the queue is nearly full"),
        cause="{{ $value | humanizePercentage }} of the requests that may wait do wait, for 5 minutes: more arrives than "
        "the replicas compute. At 100 % requests are refused.",
        cure=f"Raise scaling.maxReplicas or tuning.bounds.maxNumSeqs.max, or send less. {_EXPLAIN} says what limits it.",
    ),
    Alert(
        "HeadwayRequestsRefused",
        'sum by (model_name) (rate(headway_engine_admission_rejections_total{reason="queue_full"}[5m])) > 0.1',
        *("5m", "critical", "Engines of model {{ $labels.model_name }} refuse requests"),
        cause='{{ $value | printf "%.1f" }} requests a second are refused for 5 minutes, because queues are full.',
        cure="Raise scaling.maxReplicas, or engine.limits.maxQueuedRequests when clients would rather wait.",
    ),
    Alert(
        *("HeadwayDeadlinesMissed", f"{_fleet('deadline_late_requests')} > 0"),
        *("1m", "critical", f"{_OF}: batch requests end after their deadline"),
        cause="{{ $value }} batch requests ended after their deadline in the window of the objective, for 1 minute.",
        cure=f"Raise scaling.maxReplicas, or give the work a longer slo.deadlineSeconds. {_EXPLAIN} has the numbers.",
    ),
    Alert(
        *("HeadwayDeadlineAtRisk", f"-{_fleet('deadline_spare_seconds')} > 0"),
        *("10m", "warning", f"{_OF}: batch work will miss its deadline"),
        cause="At the present size some of the batch work that waits ends {{ $value | humanizeDuration }} after its deadline, and "
        "did so for 10 minutes.",
        cure="Raise scaling.maxReplicas, or send less into one engine at once: what waits in an engine is not moved to another. "
        f"{_EXPLAIN} has the numbers.",
    ),
    Alert(
        "HeadwayNoReadyReplica",
        f"{_fleet('desired_replicas')} > 0 and {_fleet('ready_replicas')} == 0",
        *("5m", "critical", f"{_OF} has no ready replica"),
        cause="{{ $value }} replicas are desired and none takes requests, for 5 minutes. Reason: "
        + _reason("Ready")
        + ".",
        cure=f"{_EXPLAIN} names the cause and the cure.",
    ),
    Alert(
        "HeadwayTuningUnacknowledged",
        f"{_fleet('ready_replicas')} - {_fleet('tuning_applied_replicas')} > 0",
        *("2m", "warning", f"{_OF}: engines do not confirm their limits"),
        cause="{{ $value }} ready replicas run with other limits than those decided, for 2 minutes.",
        cure=f"Can the operator reach port 50052 of these pods? {_EXPLAIN} names them.",
    ),
    Alert(
        "HeadwayMetricsStale",
        f"{_fleet('sample_age_seconds')} > 30",
        *("1m", "warning", f"{_OF}: an engine is silent"),
        cause='The newest statistics of the stalest engine are {{ $value | printf "%.0f" }} s old; one a second is usual. '
        "Nothing is scaled or tuned when fewer than half of the engines answer.",
        cure=f"Look at the logs of the pod that {_EXPLAIN} names; a NetworkPolicy must let the operator reach port 50052.",
    ),
    Alert(
        "HeadwayScalingLimited",
        _fleet("condition", '{condition="ScalingLimited",reason!~"StepLimit|Stabilizing"}', f"{_BY_FLEET}, reason")
        + " == 1",
        *("10m", "warning", f"{_OF} cannot have the replicas it needs"),
        cause="More replicas are wanted than are possible, for 10 minutes: {{ $labels.reason }}. Desired: {{ range printf "
        "\"headway_fleet_desired_replicas{namespace='%s',fleet='%s'}\" $labels.namespace $labels.fleet | query }}"
        "{{ .Value }}{{ end }}.",
        cure=f"MaxReplicas: raise scaling.maxReplicas. InsufficientGPUs, Unschedulable: add nodes. PodRefused: raise the quota. {_EXPLAIN}.",
    ),
    Alert(
        *("HeadwayNoLeader", "absent(headway_operator_leader == 1)"),
        *("2m", "critical", "No Headway operator leads"),
        cause="0 replicas of the operator lead, for 2 minutes: engines go on serving, tuned limits fall back when their "
        "lease ends, and nothing is scaled or repaired.",
        cure="Look at the operator's pods and logs, and whether Prometheus scrapes its port 8081.",
    ),
)
ALERTS = (*burn_alerts(), *STATE_ALERTS)


def rule_file() -> str:
    """The rules as a Prometheus rule file; it is also the `spec` of a PrometheusRule."""
    lines = [_HEADER + "groups:", "  - name: headway", "    rules:"]
    for alert in ALERTS:
        labels = (("severity", alert.severity), *alert.labels)
        notes = (
            ("summary", alert.summary),
            ("description", f"{alert.cause} {alert.cure}"),
            ("runbook", f"{RUNBOOK}#{alert.name.lower()}"),
        )
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expr)}",
            f"        for: {alert.hold}",
        ]
        for title, pairs in (("labels", labels), ("annotations", notes)):
            lines.append(f"        {title}:")
            lines += [f"          {name}: {json.dumps(value)}" for name, value in pairs]
    return "\n".join(lines) + "\n"
