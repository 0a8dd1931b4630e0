"""Operator processes: one leads, one waits, signals end them, a lost Lease ends them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from apiserver import ApiServer
from operators import Fleet, Operator, eventually, operator

pytestmark = pytest.mark.apiserver

# So long that no Lease expires within a test, however little of the CPU its holder gets; and looked at twice a second.
STEADY = {
    "HEADWAY_LEASE_DURATION_S": "3600",
    "HEADWAY_LEASE_RENEW_DEADLINE_S": "1800",
    "HEADWAY_LEASE_RETRY_S": "0.5",
}
# No standby looks a second time unless it is woken.
SLOW = {**STEADY, "HEADWAY_LEASE_RETRY_S": "600"}
# Soon enough for a test that waits for its end.
EXPIRING = {
    "HEADWAY_LEASE_DURATION_S": "8",
    "HEADWAY_LEASE_RENEW_DEADLINE_S": "6",
    "HEADWAY_LEASE_RETRY_S": "0.5",
}


@pytest.fixture(name="lease")
def lease_settings() -> dict[str, str]:
    """Settings of the Lease; a test may parametrize them."""
    return STEADY


@pytest.fixture
def pair(
    apiserver: ApiServer, namespace: str, tmp_path: Path, lease: dict[str, str]
) -> Iterator[tuple[Operator, Operator]]:
    """A leader and a standby that watch the test's namespace only."""
    env = {**lease, "HEADWAY_WATCH_NAMESPACE": namespace}
    with ExitStack() as stack:
        first = stack.enter_context(operator(apiserver, tmp_path, "first", namespace, **env))
        eventually(first.leads)
        second = stack.enter_context(operator(apiserver, tmp_path, "second", namespace, **env))
        yield first, second


def holder(fleet: Fleet) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{fleet.namespace}/leases/headway-operator"
    return str(fleet.server.api.get(path).ok()["spec"]["holderIdentity"])


def test_of_two_replicas_one_leads_and_both_are_healthy(pair: tuple[Operator, Operator], fleet: Fleet) -> None:
    first, second = pair
    fleet.create()
    eventually(lambda: len(fleet.pods()) == 2)
    assert first.leads()
    assert not second.leads()
    assert [replica.page("/healthz")[0] for replica in pair] == [200, 200]
    assert second.writes() == 0


def test_a_leader_that_ends_cleanly_hands_over_and_the_fleet_stays_as_it_was(
    pair: tuple[Operator, Operator], fleet: Fleet
) -> None:
    first, second = pair
    fleet.create()
    eventually(lambda: len(fleet.pods()) == 2)
    uids = {pod["metadata"]["uid"] for pod in fleet.pods()}
    assert first.terminate() == 0
    eventually(second.leads)
    eventually(lambda: second.metric("headway_operator_fleets") == 1.0)
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids


@pytest.mark.parametrize("lease", [EXPIRING], ids=["expiring"])
def test_a_killed_leader_is_replaced_and_its_work_goes_on(pair: tuple[Operator, Operator], fleet: Fleet) -> None:
    first, second = pair
    fleet.create()
    eventually(lambda: fleet.get()["metadata"].get("finalizers"))
    first.process.kill()
    eventually(second.leads)
    eventually(lambda: fleet.children()["poddisruptionbudgets"] == ["demo"])
    eventually(lambda: len(fleet.pods()) == 2)


@pytest.mark.parametrize("lease", [EXPIRING], ids=["expiring"])
def test_after_a_leader_was_killed_the_spec_before_a_refused_one_is_served_in_full(
    pair: tuple[Operator, Operator], fleet: Fleet
) -> None:
    first, second = pair
    fleet.create()
    eventually(lambda: len(fleet.pods()) == 2)
    api = fleet.server.api
    never = {"name": "never", "cron": "0 0 30 2 *", "durationSeconds": 60, "limits": {"maxNumSeqs": 2}}
    api.merge(fleet.path, {"spec": {"replicas": 1, "schedules": [never]}}).ok()
    eventually(lambda: fleet.condition("Accepted")["status"] == "False")
    first.process.kill()
    lost = fleet.pods()[0]["metadata"]
    api.delete(fleet.child_path("pods", f"{lost['name']}?gracePeriodSeconds=0")).ok()
    eventually(second.leads)
    eventually(lambda: len({pod["metadata"]["uid"] for pod in fleet.pods()} - {lost["uid"]}) == 2)
    accepted, kept = fleet.condition("Accepted"), fleet.get()["status"]["lastAccepted"]
    assert "never fires" in accepted["message"]
    assert accepted["message"].endswith("the fleet runs with the spec of generation 1 meanwhile")
    assert (kept["generation"], kept["spec"]["replicas"]) == (1, 2)
    (ours,) = [entry for entry in fleet.get()["metadata"]["managedFields"] if entry.get("subresource") == "status"]
    assert ours["fieldsV1"]["f:status"]["f:lastAccepted"]["f:spec"] == {}, "one value, whatever is in it"
    api.merge(fleet.path, {"spec": {"schedules": []}}).ok()
    eventually(lambda: fleet.condition("Accepted")["status"] == "True")
    eventually(lambda: len(fleet.pods()) == 1)


def test_a_leader_whose_lease_was_taken_ends_with_code_one(pair: tuple[Operator, Operator], fleet: Fleet) -> None:
    first, second = pair
    second.terminate()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{fleet.namespace}/leases/headway-operator"
    fleet.server.api.merge(path, {"spec": {"holderIdentity": "an intruder"}}).ok()
    assert first.process.wait(60) == 1
    assert holder(fleet) == "an intruder"


@pytest.mark.parametrize("lease", [SLOW], ids=["no-second-look"])
def test_a_standby_ends_on_sigterm_without_waiting_for_its_next_try(pair: tuple[Operator, Operator]) -> None:
    _, second = pair
    assert second.terminate() == 0


def test_a_fleet_outside_the_watched_namespace_is_left_alone(pair: tuple[Operator, Operator], fleet: Fleet) -> None:
    first, _ = pair
    fleet.server.api.create("/api/v1/namespaces", {"metadata": {"name": f"{fleet.namespace}-other"}}).ok()
    foreign = Fleet(fleet.server, f"{fleet.namespace}-other")
    foreign.create()
    fleet.create()
    eventually(lambda: len(fleet.pods()) == 2)
    assert first.metric("headway_operator_fleets") == 1.0
    # Not what became of it: the operator of other tests watches every namespace, and may still run.
    told = first.log.read_text()
    assert f"{fleet.namespace}/" in told
    assert foreign.namespace not in told


def test_unusable_settings_are_refused_with_one_sentence() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "headway_operator"],
        check=False,
        env={"HEADWAY_NAMESPACE": "x"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2
    assert answer.stderr == "headway-operator: HEADWAY_POD_NAME must be set\n"
