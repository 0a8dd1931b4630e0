"""The whole way of a fleet on the real cluster: born, loaded, scaled, retuned, orphaned for a while, and gone."""

import asyncio
import statistics
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc
import pytest
import steps
from fleets import DRAIN_S, SERVES_S, SOON_S, apply, events, manifest, remains, uids
from load_client import ANSWER_S, Load, endpoints
from reference import Reference

from headway_planner import budget, coordinator, forecast
from headway_rpc import EngineStub, pb

# The way in again takes as long as the policy may wait where starts are slow (`longest_removal_s`); 2 minutes otherwise.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

NAME = "story"
# As many as two replicas may run; one has 6 of them waiting, and 4 are enough for another one.
CLIENTS = 12
WINDOW_S = 15
PROMPT = "The capital of France is"


async def until(what: str, check: Callable[[], bool], timeout_s: float) -> None:
    await asyncio.to_thread(steps.wait_until, what, check, timeout_s=timeout_s)


async def greedy(address: str, prompt: str, max_tokens: int) -> list[int]:
    async with grpc.aio.insecure_channel(address) as channel:
        request = pb.GenerateRequest(
            text=prompt, sampling_params=pb.SamplingParams(max_tokens=max_tokens, temperature=0.0)
        )
        async for message in EngineStub(channel).Generate(request, timeout=ANSWER_S):
            if message.HasField("complete"):
                return list(message.complete.output_ids)
    raise AssertionError("no `complete`")


def history(part: str, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = steps.fleet(NAME, namespace).get("status", {}).get(part, {}).get("history", [])
    return found


def operator_pods() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = steps.get(
        "pods", "-n", steps.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=headway"
    )["items"]
    return found


def leader() -> str:
    lease = steps.get("lease", "headway-operator", "-n", steps.SYSTEM_NAMESPACE)
    return str(lease["spec"].get("holderIdentity", ""))


def start_s(pod: dict[str, Any]) -> float:
    """Seconds from a pod's creation until it was ready."""
    (ready,) = [one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    return (
        datetime.fromisoformat(ready) - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    ).total_seconds()


def longest_removal_s(pods: list[dict[str, Any]], answered: int) -> float:
    """How long a removal may take after the load's end, by the policy's own rules and the starts of these pods.

    It replays the demand of some horizons, the load among it, and its answer must then hold for the window of a removal; for
    a longer one after late first tokens, and on a slow machine all that were `answered` may have been late.
    """
    care = budget.caution(budget.FirstTokens(answered, answered, answered), 0.0)
    start = coordinator.START_MARGIN * statistics.median_low(map(start_s, pods))
    horizon = max(2 * (start + coordinator.SETTLE_S), coordinator.KEEP_HOLDS * WINDOW_S)
    hold = max(WINDOW_S, coordinator.KEEP_STARTS * start) * coordinator.CAREFUL_HOLDS**care
    return float(max(forecast.REPLAY * horizon, hold) + hold + DRAIN_S)


def test_a_fleet_lives_through_load_scaling_retuning_and_an_operator_crash(
    namespace: str, reference: Reference
) -> None:
    asyncio.run(_story(namespace, reference))


async def _story(namespace: str, reference: Reference) -> None:
    deployment = manifest(
        NAME,
        scaling={
            "mode": "Auto",
            "minReplicas": 1,
            "maxReplicas": 2,
            "scaleDown": {"stabilizationWindowSeconds": WINDOW_S, "maxReplicasPerPeriod": 1, "periodSeconds": 5},
        },
        # So loose that a starved machine keeps them: an engine that misses its objective alone counts as much less than one.
        slo={
            "workloadClass": "interactive",
            "ttft": {"targetMilliseconds": 2000},
            "interTokenLatency": {"targetMilliseconds": 4000},
        },
        # The bound keeps one replica from serving the whole load, however fast its CPU is.
        tuning={"mode": "Auto", "cooldownSeconds": 5, "bounds": {"maxNumSeqs": {"min": 1, "max": 6}}},
    )
    await asyncio.to_thread(apply, namespace, deployment)
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    first = uids(NAME, namespace)
    [first_pod] = [pod["metadata"]["name"] for pod in steps.engine_pods(NAME, namespace)]

    # The answer is the model's: token for token what transformers computes.
    [address] = await asyncio.to_thread(endpoints, NAME, namespace)
    assert await greedy(address, PROMPT, 12) == await asyncio.to_thread(reference.greedy, PROMPT, 12)

    # `headway top` reaches the engine through the API server and shows its live limits.
    top = [sys.executable, "-m", "headway_cli.main", "top", "--namespace", namespace, "--iterations", "2"]
    picture = await asyncio.to_thread(steps.run, top)
    rows = [line.split() for line in picture.splitlines() if line.startswith(f"{first_pod} ")]
    limits = steps.fleet(NAME, namespace)["status"]["tuning"]["effective"]
    assert rows, picture
    assert rows[-1][-2:] == [str(limits["maxNumSeqs"]), str(limits["maxNumBatchedTokens"])], picture

    # Load: scaled out and retuned live, while the operator's leader is killed half-way.
    async with Load(NAME, namespace, clients=CLIENTS, prompt=PROMPT, max_tokens=24) as load:
        await load.until("a retune", lambda: bool(history("tuning", namespace)), SERVES_S)
        await load.until("a scale-out", lambda: len(uids(NAME, namespace)) == 2, SERVES_S)
        killed = await asyncio.to_thread(leader)
        await asyncio.to_thread(
            steps.run,
            [
                "kubectl",
                "delete",
                "pod",
                killed.split("_")[0],
                "-n",
                steps.SYSTEM_NAMESPACE,
                "--grace-period=0",
                "--force",
            ],
        )
        await load.until("a new leader", lambda: leader() not in ("", killed), SOON_S)
        # And no longer: a load that goes on rises a second time with the second replica, and the autoscaler would prepare for more.
        await load.until("both replicas answer", lambda: len(load.outcome.by_address) == 2, SERVES_S)
    during = load.outcome
    assert during.failures == []
    assert first <= uids(NAME, namespace), "a retune or the operator's crash replaced a pod"

    # Hardly anybody asks any more: in again, drained first. Streams to both replicas in turn go on through the scale-in.
    longest_s = longest_removal_s(steps.engine_pods(NAME, namespace), during.completed)
    async with Load(NAME, namespace, clients=1, rests=True, replicas=2, prompt=PROMPT, max_tokens=32) as trickle:
        await trickle.until("a scale-in", lambda: len(uids(NAME, namespace)) == 1, longest_s)
    assert trickle.outcome.failures == []
    restarts = [
        status["restartCount"]
        for pod in steps.engine_pods(NAME, namespace)
        for status in pod["status"]["containerStatuses"]
    ]
    assert set(restarts) == {0}
    reasons = [change["reason"] for change in history("scaling", namespace) + history("tuning", namespace)]
    assert all(any(character.isdigit() for character in reason) for reason in reasons), reasons
    counts = [(change["from"], change["to"]) for change in history("scaling", namespace)]
    assert (counts[0], counts[-1]) == ((2, 1), (1, 2)), counts
    await asyncio.to_thread(events, NAME, namespace, "ScaledUp", "ScaledDown")

    # Gone without a trace.
    await asyncio.to_thread(
        steps.run,
        ["kubectl", "delete", "llmdep", NAME, "-n", namespace, f"--timeout={DRAIN_S}s"],
        timeout_s=DRAIN_S + 30,
    )
    await until("nothing left", lambda: remains(NAME, namespace) == [], SOON_S)


def test_deleting_a_fleet_under_load_cuts_no_stream_and_leaves_nothing(namespace: str) -> None:
    asyncio.run(_delete_under_load(namespace))


async def _delete_under_load(namespace: str) -> None:
    await asyncio.to_thread(apply, namespace, manifest(NAME))
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    [address] = await asyncio.to_thread(endpoints, NAME, namespace)

    async def stream() -> tuple[int, int]:
        async with grpc.aio.insecure_channel(address) as channel:
            request = pb.GenerateRequest(
                text=PROMPT, sampling_params=pb.SamplingParams(max_tokens=96, temperature=0.0, ignore_eos=True)
            )
            call = EngineStub(channel).Generate(request, timeout=ANSWER_S)
            async for message in call:
                if message.HasField("complete"):
                    return len(message.complete.output_ids), message.complete.finish_reason
        raise AssertionError("cut")

    streams = [asyncio.create_task(stream()) for _ in range(6)]

    def taken() -> bool:
        """All of them are in the engine, two in its queue; or over, where it is faster than this test."""
        with grpc.insecure_channel(address) as channel:
            total = EngineStub(channel).GetLoads(pb.GetLoadsRequest(), timeout=SOON_S).num_total
        return total >= sum(not one.done() for one in streams)

    await until("the streams in the engine", taken, SOON_S)
    delete = ["kubectl", "delete", "llmdep", NAME, "-n", namespace, f"--timeout={DRAIN_S + 20}s"]
    await asyncio.to_thread(steps.run, delete, timeout_s=DRAIN_S + 50)
    assert await asyncio.gather(*streams) == [(96, pb.LENGTH)] * 6
    await until("nothing left", lambda: remains(NAME, namespace) == [], SOON_S)
