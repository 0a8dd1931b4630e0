"""What a failed test leaves behind, in few lines: the report of a failure on a machine that is gone says why.

Everything is read while the namespace still stands, and nothing in here may hide the failure itself.
"""

import os
from collections.abc import Sequence

import steps

WIDTH = 400
EXPLAINED, LIVE, EVENTS, LOGGED = 40, 10, 20, 20  # lines of each part, the last ones


def aftermath(namespace: str) -> str:
    """Some 100 lines at most on a namespace with one fleet: the machine, its fleets, engines, pods, Events, and the operator's last words."""
    lines = [f"load averages {os.getloadavg()}, {os.cpu_count()} CPUs"]
    for fleet in _said("kubectl", "get", "llmdep", "-n", namespace, "-o", "name"):
        lines += _said("headway", "explain", fleet.rsplit("/", 1)[-1], "--namespace", namespace, last=EXPLAINED)
    lines += _said("headway", "top", "--namespace", namespace, "--iterations", "1", last=LIVE)
    lines += _said("kubectl", "get", "pods", "-n", namespace, "-o", "wide")
    lines += _said(
        "kubectl",
        "get",
        "events",
        "-n",
        namespace,
        "--sort-by=.metadata.creationTimestamp",
        "--no-headers",
        last=EVENTS,
    )
    logs = _said("kubectl", "logs", "-n", steps.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=headway", "--tail=400")
    lines += [line for line in logs if namespace in line][-LOGGED:]
    return "\n".join(line[:WIDTH] for line in lines if line.strip())


def _said(*command: str, last: int = 100) -> Sequence[str]:
    try:
        return steps.run(command, timeout_s=30).splitlines()[-last:]
    except steps.StepError as error:
        return str(error).splitlines()[-2:]
