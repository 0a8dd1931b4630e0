"""A fleet's life with a real operator process and a real API server: created, repaired, retuned, deleted.

How soon is no matter of these tests: that events wake the fleet is `test_watch`, that a wake is a pass at once
`tests/unit/operator_shell/test_fleets.py`, and the seconds are measured by `headway bench fleet`.
"""

from collections.abc import Callable
from typing import Any

import pytest
from fake_control import FakeEngineControl
from operators import Engines, Fleet, Operator, eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("running_operator")]


@pytest.fixture
def settled(fleet: Fleet) -> Fleet:
    """A fleet whose two pods exist."""
    fleet.create()
    eventually(lambda: len(fleet.pods()) == 2)
    eventually(lambda: fleet.get()["status"]["observedGeneration"] == 1)
    return fleet


@pytest.fixture
def serving(settled: Fleet, engines: Engines) -> tuple[Fleet, list[FakeEngineControl]]:
    """A fleet whose two engines answer."""
    started = []
    for pod in settled.pods():
        address, engine = engines.start()
        started.append(engine)
        settled.make_ready(pod["metadata"]["name"], address)
    eventually(lambda: settled.get()["status"]["readyReplicas"] == 2)
    eventually(lambda: all(engine.asked for engine in started))
    return settled, started


def test_one_manifest_becomes_children_pods_and_status(settled: Fleet) -> None:
    children = settled.children()
    assert children["serviceaccounts"] == ["demo"]
    assert children["services"] == ["demo", "demo-engines"]
    assert children["poddisruptionbudgets"] == ["demo"]
    assert len(children["pods"]) == 2
    assert settled.get()["metadata"]["finalizers"] == ["serving.headway.dev/drain"]
    assert settled.condition("Accepted")["status"] == "True"
    assert "kopf" not in str(settled.get()["metadata"]).replace("managedFields", "")


def delete(kind: str, name: str) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.server.api.delete(fleet.child_path(kind, name)).ok()  # type: ignore[no-any-return]


def merge(kind: str, name: str, patch: Any) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.server.api.merge(fleet.child_path(kind, name), patch).ok()  # type: ignore[no-any-return]


def selector(fleet: Fleet) -> Any:
    return fleet.server.api.get(fleet.child_path("services", "demo")).ok()["spec"]["selector"]


@pytest.mark.parametrize(
    ("damage", "repaired"),
    [
        (delete("services", "demo"), lambda fleet: "demo" in fleet.children()["services"]),
        (delete("services", "demo-engines"), lambda fleet: "demo-engines" in fleet.children()["services"]),
        (delete("serviceaccounts", "demo"), lambda fleet: fleet.children()["serviceaccounts"]),
        (delete("poddisruptionbudgets", "demo"), lambda fleet: fleet.children()["poddisruptionbudgets"]),
        (
            merge("services", "demo", {"spec": {"selector": {"serving.headway.dev/serving": "maybe"}}}),
            lambda fleet: selector(fleet)["serving.headway.dev/serving"] == "true",
        ),
        (
            merge("services", "demo", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}),
            lambda fleet: "demo" in fleet.children()["services"],
        ),
    ],
    ids=["service", "headless", "account", "budget", "selector", "label"],
)
def test_drift_is_repaired(settled: Fleet, damage: Callable[[Fleet], None], repaired: Callable[[Fleet], Any]) -> None:
    damage(settled)
    eventually(lambda: repaired(settled))


def test_a_deleted_pod_is_replaced(settled: Fleet) -> None:
    victim = settled.pods()[0]["metadata"]
    settled.server.api.delete(settled.child_path("pods", f"{victim['name']}?gracePeriodSeconds=0")).ok()
    eventually(lambda: len({pod["metadata"]["uid"] for pod in settled.pods()} - {victim["uid"]}) == 2)


def test_changed_limits_reach_every_engine_and_no_pod_is_replaced(
    serving: tuple[Fleet, list[FakeEngineControl]],
) -> None:
    fleet, engines = serving
    uids = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.server.api.merge(fleet.path, {"spec": {"engine": {"limits": {"maxNumSeqs": 4}}}}).ok()
    eventually(lambda: all(engine.answer.config.effective.max_num_seqs == 4 for engine in engines))
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids


def test_a_deleted_fleet_drains_first_and_leaves_no_pod(serving: tuple[Fleet, list[FakeEngineControl]]) -> None:
    fleet, engines = serving
    for engine in engines:
        engine.answer.loads.num_running = 1
    fleet.server.api.delete(fleet.path).ok()
    eventually(lambda: all(engine.drains for engine in engines))
    draining = fleet.pods()
    assert {pod["metadata"]["labels"]["serving.headway.dev/serving"] for pod in draining} == {"false"}
    assert all("serving.headway.dev/drain-started" in pod["metadata"]["annotations"] for pod in draining)
    assert fleet.server.api.get(fleet.path).status == 200
    for engine in engines:
        engine.answer.loads.num_running = 0
    eventually(lambda: fleet.server.api.get(fleet.path).status == 404)
    assert fleet.pods() == []


def test_passes_over_a_settled_fleet_write_nothing(
    serving: tuple[Fleet, list[FakeEngineControl]], running_operator: Operator
) -> None:
    fleet, _ = serving
    eventually(lambda: fleet.condition("Ready")["status"] == "True")
    prefix = f"shell.execute: {fleet.namespace}/{fleet.name}: "

    def actions() -> list[str]:
        """What the operator did for this fleet; it serves the other tests' fleets, too."""
        return [line.split(prefix)[1] for line in running_operator.log.read_text().splitlines() if prefix in line]

    def done_in_a_round() -> list[str]:
        """Wake the fleet, then break a Service: its repair shows that a pass has come and gone."""
        before = len(actions())
        fleet.server.api.merge(fleet.path, {"metadata": {"annotations": {"touched": str(before)}}}).ok()
        delete("services", "demo")(fleet)
        eventually(lambda: "demo" in fleet.children()["services"])
        eventually(lambda: len(actions()) > before)
        return actions()[before:]

    repair = ["Apply Service/demo: Service demo is missing"]
    eventually(lambda: done_in_a_round() == repair)  # the statuses of the start may still come
    assert [done_in_a_round() for _ in range(5)] == [repair] * 5


def test_a_pod_that_the_api_server_refuses_is_told_in_the_conditions_and_created_once_it_may(fleet: Fleet) -> None:
    api, quota = fleet.server.api, f"/api/v1/namespaces/{fleet.namespace}/resourcequotas"
    spec = {"hard": {"pods": "0"}}
    api.create(quota, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec}).ok()
    # The API server enforces what a quota's status says; the controller that writes it does not run here.
    api.merge(f"{quota}/none/status", {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}).ok()
    fleet.create()
    eventually(lambda: "exceeded quota" in fleet.condition("Ready")["message"])
    assert fleet.condition("Ready")["reason"] == "PodRefused"
    assert "the API server refuses to create a pod: pods " in fleet.condition("Ready")["message"], (
        "its words, no request's"
    )
    api.delete(f"{quota}/none").ok()
    eventually(lambda: len(fleet.pods()) == 2)
