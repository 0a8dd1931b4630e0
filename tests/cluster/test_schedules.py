"""A window of time that is open now changes limits and bounds of a running fleet, and its end gives the limits back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import steps
from fleets import SERVES_S, SOON_S, apply, events, manifest, uids

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "by-night"


def window(begun: datetime) -> dict[str, Any]:
    """A daily window that began at this minute and is open for an hour."""
    return {
        "name": "night",
        "cron": f"{begun.minute} {begun.hour} * * *",
        "durationSeconds": 3600,
        "scaling": {"minReplicas": 2},
        "limits": {"maxNumSeqs": 12},
    }


def limit(namespace: str) -> int:
    found: int = steps.fleet(NAME, namespace)["status"]["tuning"]["effective"]["maxNumSeqs"]
    return found


def count(namespace: str) -> int:
    return int(steps.fleet(NAME, namespace)["status"].get("readyReplicas", 0))


def test_an_open_window_moves_limits_and_replicas_and_its_end_gives_the_limits_back(namespace: str) -> None:
    scaling = {"mode": "Auto", "minReplicas": 1, "maxReplicas": 2}
    apply(namespace, manifest(NAME, scaling=scaling))
    steps.wait_ready(NAME, namespace)
    assert limit(namespace) == 4
    before = uids(NAME, namespace)

    begun = datetime.now(UTC) - timedelta(minutes=1)
    apply(namespace, manifest(NAME, scaling=scaling, schedules=[window(begun)]))
    steps.wait_until("the window's limit", lambda: limit(namespace) == 12, timeout_s=SOON_S)
    steps.wait_until("the window's replicas", lambda: count(namespace) == 2, timeout_s=SERVES_S)
    [active] = steps.fleet(NAME, namespace)["status"]["schedule"]["active"]
    assert (active["name"], active["overrides"]) == ("night", ["scaling.minReplicas 2", "limits.maxNumSeqs 12"])
    assert before < uids(NAME, namespace), "a window replaced a pod"

    apply(namespace, manifest(NAME, scaling=scaling, schedules=[window(begun + timedelta(hours=12))]))
    steps.wait_until("the spec's limit", lambda: limit(namespace) == 4, timeout_s=SOON_S)
    said = events(NAME, namespace, "ScheduleBegan", "ScheduleEnded")
    assert "night" in said["ScheduleBegan"]
    assert "night" in said["ScheduleEnded"]
