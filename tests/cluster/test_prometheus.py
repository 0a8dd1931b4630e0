"""Alerts fire for a real cause and end with it: our rules in a real Prometheus that scrapes the cluster."""

import os
import re
from collections.abc import Callable

import pytest
import steps
from fleets import SERVES_S, SOON_S
from incidents import NO_IMAGE, OVERLOADED, SILENT, Incidents

# Alone they wait for the alerts to hold (5 min); in the whole run they come last and have held by then.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


# For the cause to hold (5 min), from when it began: the engines started before it. The operator's figures, a scrape and an
# evaluation come on top, 15 s each by the page's configuration.
FIRES_S = 300 + SERVES_S + SOON_S
ENDS_S = SOON_S + 60


def soon(what: str, holds: Callable[[], bool], timeout_s: float) -> None:
    steps.wait_until(what, holds, timeout_s=timeout_s, every_s=2.0)


def test_a_fleet_without_a_ready_replica_is_reported_with_its_reason_until_it_serves(incident: Incidents) -> None:
    def firing() -> bool:
        return "HeadwayNoReadyReplica" in incident.prometheus.firing(namespace=incident.namespace, fleet=NO_IMAGE)

    soon("the alert", firing, FIRES_S)
    alert = incident.prometheus.firing(namespace=incident.namespace, fleet=NO_IMAGE)["HeadwayNoReadyReplica"]
    deployment = steps.fleet(NO_IMAGE, incident.namespace)
    reason = steps.condition(deployment, "Ready")["reason"]
    assert alert["annotations"]["summary"] == f"{incident.namespace}/{NO_IMAGE} has no ready replica"
    assert alert["annotations"]["description"].startswith(
        "1 replicas are desired and none takes requests, for 5 minutes."
    )
    assert f"Reason: {reason}." in alert["annotations"]["description"]
    incident.mend_image()
    steps.wait_ready(NO_IMAGE, incident.namespace, timeout_s=SERVES_S)
    soon("its end", lambda: not firing(), ENDS_S)


def test_overload_is_reported_from_the_operators_and_the_engines_figures_until_it_ends(incident: Incidents) -> None:
    def firing() -> set[str]:
        mine = incident.prometheus.firing(namespace=incident.namespace, fleet=OVERLOADED)
        return {"HeadwayQueueSaturated", "HeadwayRequestsRefused"} & {
            *mine,
            *incident.prometheus.firing(model_name="smollm2"),
        }

    soon("both alerts", lambda: len(firing()) == 2, FIRES_S)
    said = incident.prometheus.firing(namespace=incident.namespace, fleet=OVERLOADED)["HeadwayQueueSaturated"][
        "annotations"
    ]["description"]
    # Nearly full, and not exactly: a sample may fall between a request that begins and the one that takes its place.
    share = re.match(r"([0-9.]+)% of the requests that may wait do wait", said)
    assert share is not None, said
    assert float(share[1]) > 80, said
    incident.load_ends.set()
    soon("the queue's end", lambda: "HeadwayQueueSaturated" not in firing(), SERVES_S)


@pytest.mark.skipif(
    os.environ.get("CLUSTER", "own") != "own", reason="only the own cluster surely enforces NetworkPolicies"
)
def test_an_engine_that_confirms_no_limits_is_reported_until_the_operator_reaches_it(incident: Incidents) -> None:
    def firing() -> bool:
        return "HeadwayTuningUnacknowledged" in incident.prometheus.firing(namespace=incident.namespace, fleet=SILENT)

    soon("the alert", firing, FIRES_S)
    assert steps.condition(steps.fleet(SILENT, incident.namespace), "Ready")["status"] == "True"
    incident.open_control_port()
    soon("its end", lambda: not firing(), ENDS_S)
