"""What happens to a fleet's objects in a real API server wakes the fleet: no repair waits for a timer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import print_wakes
import pytest
from apiserver import ApiServer
from operators import Fleet

from headway_operator.core import names

pytestmark = pytest.mark.apiserver

SPECS = {
    "services": {"ports": [{"port": 80}]},
    "poddisruptionbudgets": {"maxUnavailable": 1},
    "pods": {"containers": [{"name": "engine", "image": "engine:1"}]},
}
DELETED = ("services", "serviceaccounts", "poddisruptionbudgets", "pods")


class Wakes:
    """The wakes of a watch, as they are printed."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def of_all(self, fleets: set[str]) -> None:
        """Wait until each of these was woken since the last time; the test's own timeout ends it."""
        missing = set(fleets)
        while missing:
            missing.discard(next(self._lines).decode().strip())


@pytest.fixture
def wakes(apiserver: ApiServer, namespace: str) -> Iterator[Wakes]:
    command = [sys.executable, str(Path(print_wakes.__file__)), namespace]
    environment = {**os.environ, "KUBECONFIG": str(apiserver.kubeconfig)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Wakes(iter(process.stdout))
        process.kill()


def child(fleet: Fleet, plural: str) -> None:
    """Create a child of a fleet that does not exist, so that no operator touches it."""
    labels = {names.LABEL_FLEET: fleet.name, names.LABEL_MANAGED_BY: names.OPERATOR_NAME}
    body: dict[str, Any] = {"metadata": {"name": fleet.name, "labels": labels}}
    if plural in SPECS:
        body["spec"] = SPECS[plural]
    fleet.server.api.create(fleet.child_path(plural), body).ok()


def test_damage_to_any_kind_of_child_wakes_its_fleet(apiserver: ApiServer, namespace: str, wakes: Wakes) -> None:
    """Every object has a fleet of its own, so a wake says whose event it was."""
    api = apiserver.api
    deleted = {plural: Fleet(apiserver, namespace, f"without-{plural}") for plural in DELETED}
    edited, unlabelled = Fleet(apiserver, namespace, "edited"), Fleet(apiserver, namespace, "unlabelled")
    for plural, fleet in deleted.items():
        child(fleet, plural)
    for fleet in (edited, unlabelled):
        child(fleet, "services")
    everybody = {fleet.name for fleet in (*deleted.values(), edited, unlabelled)}
    wakes.of_all(everybody)
    for plural, fleet in deleted.items():
        api.delete(fleet.child_path(plural, f"{fleet.name}?gracePeriodSeconds=0")).ok()
    api.merge(edited.child_path("services", edited.name), {"spec": {"selector": {"a": "b"}}}).ok()
    without_label = {"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}}
    api.merge(unlabelled.child_path("services", unlabelled.name), without_label).ok()
    wakes.of_all(everybody)
