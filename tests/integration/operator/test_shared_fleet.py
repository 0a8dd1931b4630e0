"""Several classes in one fleet, from a real operator process on a real API server: limits live, each class in the status."""

import os
import subprocess
import sys

import pytest
from engine_samples import buckets
from fake_control import FakeEngineControl
from operators import Engines, Fleet, eventually

from headway_rpc import pb

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("running_operator")]

# So long that what was counted once is still in it when a command has started and asks.
OWN = {"workloadClass": "interactive", "windowSeconds": 120}
SHARED = {**OWN, "classes": [{"workloadClass": "batch", "ttft": {"targetMilliseconds": 60_000}}]}


@pytest.fixture
def serving(fleet: Fleet, engines: Engines) -> tuple[Fleet, FakeEngineControl]:
    """A fleet of one class whose only engine answers and has its limits."""
    fleet.create(replicas=1, slo=OWN)
    eventually(fleet.pods)
    address, engine = engines.start()
    engine.answer.config.effective.reserved_percent = engine.answer.config.baseline.reserved_percent = 0
    fleet.make_ready(fleet.pods()[0]["metadata"]["name"], address)
    eventually(lambda: fleet.get()["status"]["tuning"]["appliedReplicas"] == 1)
    return fleet, engine


def histogram(*values_ms: float) -> pb.Histogram:
    return pb.Histogram(buckets=buckets(*values_ms), count=len(values_ms), sum_ms=sum(values_ms))


def test_a_second_class_reaches_the_engine_live_and_is_judged_by_its_own_target(
    serving: tuple[Fleet, FakeEngineControl],
) -> None:
    fleet, engine = serving
    uids = [pod["metadata"]["uid"] for pod in fleet.pods()]
    fleet.server.api.merge(fleet.path, {"spec": {"slo": SHARED}}).ok()
    eventually(lambda: engine.answer.config.effective.reserved_percent == 20)
    assert engine.answer.config.effective.max_queued_batch_requests == 1024
    assert [pod["metadata"]["uid"] for pod in fleet.pods()] == uids
    # Together: a poll may come at any moment, and what it finds is shown for five seconds.
    engine.answer.MergeFrom(
        pb.Stats(
            requests_received=engine.answer.requests_received + 40,
            classes=[
                pb.ClassStats(
                    workload_class=kind,
                    ttft=histogram(*[ttft_ms] * 20),
                    queue_wait=histogram(*[ttft_ms / 2] * 20),
                    itl=histogram(*[30.0] * 20),
                    requests_admitted=20,
                    requests_finished=20,
                )
                for kind, ttft_ms in ((pb.PRIORITY_INTERACTIVE, 4000.0), (pb.PRIORITY_BATCH, 9000.0))
            ],
        )
    )
    eventually(lambda: fleet.condition("SLOMet")["status"] == "False")
    chat, batch = fleet.get()["status"]["slo"]["classes"]
    assert (chat["workloadClass"], chat["ttftTargetMilliseconds"], chat["attainmentPercent"]) == (
        "interactive",
        1500,
        0,
    )
    assert (batch["workloadClass"], batch["ttftTargetMilliseconds"], batch["attainmentPercent"]) == (
        "batch",
        60_000,
        100,
    )
    command = [sys.executable, "-m", "headway_cli.main", "explain", "-n", fleet.namespace]
    environment = {**os.environ, "KUBECONFIG": str(fleet.server.kubeconfig)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=110)
    assert "  batch: TTFT 9" in done.stdout
    assert "from classes interactive, batch:" in done.stdout


def test_a_deadline_reaches_the_engine_live_and_the_status_says_how_its_work_stands(
    serving: tuple[Fleet, FakeEngineControl],
) -> None:
    fleet, engine = serving
    for limits in (engine.answer.config.effective, engine.answer.config.baseline):
        limits.batch_deadline_ms = 0
    objective = {**OWN, "classes": [{"workloadClass": "batch", "deadlineSeconds": 900}]}
    fleet.server.api.merge(fleet.path, {"spec": {"slo": objective}}).ok()
    eventually(lambda: engine.answer.config.effective.batch_deadline_ms == 900_000)
    engine.answer.classes.append(
        pb.ClassStats(
            workload_class=pb.PRIORITY_BATCH,
            ttft=histogram(*[90_000.0] * 20),
            queue_wait=histogram(*[80_000.0] * 20),
            itl=histogram(*[30.0] * 20),
            requests_admitted=30,
            requests_finished=20,
            requests_late=3,
        )
    )
    engine.answer.requests_received += 30
    eventually(lambda: fleet.get()["status"]["slo"]["deadline"]["lateCount"] == 3)
    deadline = fleet.get()["status"]["slo"]["deadline"]
    assert (deadline["seconds"], deadline["waitingRequests"], deadline["finishedCount"]) == (900, 10, 20)
    met = fleet.condition("SLOMet")
    assert (met["status"], met["reason"]) == ("False", "TargetMissed")
    assert "3 of 20 batch requests ended after their deadline of 900 s" in met["message"]
    assert "TTFT" not in met["message"], "its first tokens are judged by nobody"
    assert any(one["name"] == "DeadlineMissed" for one in fleet.get()["status"]["symptoms"])
