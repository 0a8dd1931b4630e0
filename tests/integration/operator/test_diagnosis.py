"""Symptoms from a real operator process on a real API server: condition, status, Event, and what the command makes of them."""

import os
import subprocess
import sys
from typing import Any

import pytest
from engine_samples import buckets
from fake_control import FakeEngineControl
from operators import Engines, Fleet, eventually

from headway_rpc import pb

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("running_operator")]

# So long that what was counted once is still in it when a command has started and asks.
SLO = {"workloadClass": "interactive", "windowSeconds": 120}


@pytest.fixture
def serving(fleet: Fleet, engines: Engines) -> tuple[Fleet, FakeEngineControl]:
    """A fleet whose only engine answers and has its limits."""
    fleet.create(replicas=1, slo=SLO)
    eventually(fleet.pods)
    address, engine = engines.start()
    fleet.make_ready(fleet.pods()[0]["metadata"]["name"], address)
    eventually(lambda: fleet.get()["status"]["tuning"]["appliedReplicas"] == 1)
    assert fleet.condition("Healthy")["reason"] == "NoSymptom"
    return fleet, engine


def events(fleet: Fleet, reason: str) -> list[Any]:
    found = fleet.server.api.get(f"/api/v1/namespaces/{fleet.namespace}/events").ok()["items"]
    return [event for event in found if event["reason"] == reason]


def test_limits_that_somebody_else_sets_are_put_right_once_and_told(serving: tuple[Fleet, FakeEngineControl]) -> None:
    fleet, engine = serving
    config = engine.answer.config
    wanted = config.effective.max_num_seqs
    config.effective.max_num_seqs, config.revision = wanted - 1, config.revision + 1
    eventually(lambda: fleet.condition("Healthy")["reason"] == "RivalWriter")
    assert f"to maxNumSeqs {wanted - 1}" in fleet.condition("Healthy")["message"]
    eventually(lambda: config.effective.max_num_seqs == wanted)
    (event,) = eventually(lambda: events(fleet, "RivalWriter"))
    assert (event["type"], event["involvedObject"]["name"]) == ("Warning", "demo")
    assert [one["name"] for one in fleet.get()["status"]["symptoms"]] == ["RivalWriter"]


def late(engine: FakeEngineControl) -> None:
    """Twenty requests that waited 2.3 s for a slot and took 0.2 s."""
    stats = engine.answer
    stats.loads.num_running, stats.loads.num_waiting = 4, 5
    stats.requests_received += 20
    for name, value_ms in (("ttft", 2500.0), ("queue_wait", 2300.0), ("prefill", 200.0)):
        counts = buckets(*[value_ms] * 20)
        before = [*getattr(stats, name).buckets]
        padded = [*before, *[0] * (len(counts) - len(before))]
        getattr(stats, name).CopyFrom(
            pb.Histogram(buckets=[a + b for a, b in zip(padded, counts, strict=True)], count=sum(padded) + 20)
        )


def autoscaler(fleet: Fleet) -> None:
    """A HorizontalPodAutoscaler `web` on the fleet."""
    target = {"apiVersion": "serving.headway.dev/v1alpha1", "kind": "LLMDeployment", "name": fleet.name}
    manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": target},
    }
    path = f"/apis/autoscaling/v2/namespaces/{fleet.namespace}/horizontalpodautoscalers"
    fleet.server.api.create(path, manifest).ok()


def test_an_autoscaler_whose_writes_are_refused_is_told_at_the_fleet(fleet: Fleet) -> None:
    autoscaler(fleet)
    fleet.create(replicas=None, slo=SLO, scaling={"mode": "Auto", "maxReplicas": 3})
    (event,) = eventually(lambda: events(fleet, "RivalWriter"))
    assert event["message"].startswith(
        "HorizontalPodAutoscaler web targets this fleet, but spec.scaling.mode is Auto: the API server refuses its writes"
    )
    assert fleet.condition("Healthy")["reason"] == "RivalWriter"


def test_a_queue_is_told_in_the_status_and_by_the_command_beside_an_autoscaler(
    serving: tuple[Fleet, FakeEngineControl],
) -> None:
    fleet, engine = serving
    late(engine)
    eventually(lambda: fleet.condition("Healthy")["reason"] == "QueueTooLong")
    assert "is queue wait: 2" in fleet.condition("Healthy")["message"]
    autoscaler(fleet)
    command = [sys.executable, "-m", "headway_cli.main", "diagnose", "-n", fleet.namespace, "--seconds", "1"]
    environment = {**os.environ, "KUBECONFIG": str(fleet.server.kubeconfig)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=110)
    assert (done.returncode, done.stderr) == (1, "")
    assert "WARNING QueueTooLong\n  p95 TTFT 2" in done.stdout
    assert "(seen by the operator since " in done.stdout, "there is no kubelet to forward to the engine"
    assert "WARNING SomeEnginesSilent\n  the engine of pod demo-" in done.stdout
    assert "WARNING RivalWriter\n  HorizontalPodAutoscaler web targets this fleet" in done.stdout
    assert "Last warnings\n" in done.stdout
    assert "QueueTooLong: p95 TTFT" in done.stdout.split("Last warnings\n")[1]
