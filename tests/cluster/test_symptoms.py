"""What keeps a real engine from its objective is named with numbers and cure: in the status, as an Event, by `headway diagnose`."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
import steps
from fleets import apply, manifest
from load_client import ready_addresses

from headway_rpc import EngineControlStub, EngineStub, pb

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "sick"
KV_MEBIBYTES = 64  # 1,456 tokens of SmolLM2
# Distinct from its first token on, so that the prefix cache does not help; some 200 and 300 tokens.
LONG, TOO_LONG = "Once upon a time " * 50, "Once upon a time " * 75
_numbers = itertools.count()


def sick(**limits: int) -> dict[str, Any]:
    """The fleet with other limits: they are live, so one pod shows all symptoms."""
    found = manifest(
        NAME,
        slo={
            "workloadClass": "realtime",
            "ttft": {"targetMilliseconds": 400},
            "interTokenLatency": {"targetMilliseconds": 1000},
            "windowSeconds": 15,
        },
    )
    found["spec"]["engine"]["capacity"]["kvCacheMemoryMebibytes"] = KV_MEBIBYTES
    found["spec"]["engine"]["limits"] = {
        "maxNumSeqs": 16,
        "maxQueuedRequests": 64,
        "batchWaitMilliseconds": 0,
        **limits,
    }
    return found


def interactive(ttft_ms: float) -> dict[str, Any]:
    """The fleet with another target for first tokens, as near to the one given as the class allows."""
    found = sick()
    found["spec"]["slo"] |= {
        "workloadClass": "interactive",
        "ttft": {"targetMilliseconds": round(min(2000, max(500, ttft_ms)))},
        # Eight first tokens make a percentile, on a slow machine too.
        "windowSeconds": 90,
    }
    return found


class Engine:
    """The fleet's one engine, and what goes wrong with it."""

    def __init__(self, namespace: str, data: grpc.aio.Channel, control: grpc.aio.Channel) -> None:
        self._namespace = namespace
        self._data, self._control = EngineStub(data), EngineControlStub(control)

    async def ask(self, text: str, max_tokens: int) -> None:
        """One request; each prompt is new to the prefix cache."""
        parameters = pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        request = pb.GenerateRequest(text=f"{next(_numbers)} {text}", sampling_params=parameters)
        async for _ in self._data.Generate(request, timeout=120):
            pass

    async def write_limits(self) -> None:
        """What a rival does: limits that the operator never asked for, and again when it has put them right."""
        foreign = pb.Limits(max_num_seqs=9)
        await self._control.UpdateRuntimeConfig(
            pb.UpdateRuntimeConfigRequest(limits=foreign, lease_seconds=60), timeout=10
        )
        while "RivalWriter" not in await asyncio.to_thread(self._symptoms):
            now = await self._control.GetRuntimeConfig(pb.GetRuntimeConfigRequest(), timeout=10)
            if now.effective.max_num_seqs != foreign.max_num_seqs:
                return

    async def provoke(
        self,
        symptom: str,
        deployment: dict[str, Any],
        cause: Callable[[], Awaitable[None]],
        clients: int,
        *,
        diagnosed: bool = False,
    ) -> tuple[str, str]:
        """Repeat the cause until the operator reports the symptom, and `headway diagnose` where it is asked; its words and cure."""
        await asyncio.to_thread(apply, self._namespace, deployment)
        wanted = deployment["spec"]["engine"]["limits"]
        await asyncio.to_thread(
            steps.wait_until, "its limits", lambda: self._limits().items() >= wanted.items(), timeout_s=20
        )
        causes = [asyncio.create_task(_repeat(cause)) for _ in range(clients)]
        try:
            reported = await asyncio.to_thread(
                steps.wait_until, symptom, lambda: self._symptoms().get(symptom), timeout_s=120, every_s=1.0
            )
            if diagnosed:
                assert symptom in await asyncio.to_thread(self._diagnose)
        finally:
            for one in causes:
                one.cancel()
            await asyncio.wait(causes)
        return reported["message"], reported["cure"]

    def _limits(self) -> dict[str, Any]:
        found: dict[str, Any] = steps.fleet(NAME, self._namespace)["status"]["tuning"]["effective"]
        return found

    def _symptoms(self) -> dict[str, Any]:
        return {one["name"]: one for one in steps.fleet(NAME, self._namespace)["status"].get("symptoms", [])}

    def _diagnose(self) -> set[str]:
        """It ends with exit code 1 when it finds something, which a shell tells from a failure by its output."""
        command = f"headway diagnose {NAME} --namespace {self._namespace} --seconds 10 --json || true"
        return {one["name"] for one in json.loads(steps.run(["sh", "-c", command]))["findings"]}


async def _repeat(cause: Callable[[], Awaitable[None]]) -> None:
    while True:
        await cause()


def test_symptoms_of_a_real_engine_are_named_with_their_numbers_and_cures(namespace: str) -> None:
    asyncio.run(_story(namespace))


async def _story(namespace: str) -> None:
    await asyncio.to_thread(apply, namespace, interactive(500))
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    [address] = ready_addresses(NAME, namespace)
    control = address.replace(":50051", ":50052")
    async with grpc.aio.insecure_channel(address) as data, grpc.aio.insecure_channel(control) as commands:
        engine = Engine(namespace, data, commands)

        # First: an idle engine is part of it, and nothing from before is in the window.
        began_s = time.monotonic()
        await engine.ask(TOO_LONG, 1)
        prompts = interactive(1000 * (time.monotonic() - began_s) / 2)
        words, cure = await engine.provoke("PromptsTooLong", prompts, lambda: engine.ask(TOO_LONG, 1), 1)
        target = prompts["spec"]["slo"]["ttft"]["targetMilliseconds"]
        assert f"> TTFT target {target} ms on engines with nothing else to do" in words
        assert "the objective is infeasible" in words
        assert "cut prompts" in cure

        waits = sick(batchWaitMilliseconds=800)
        words, cure = await engine.provoke("BatchWaitTooLong", waits, lambda: engine.ask("A", 1), 2, diagnosed=True)
        assert "batchWaitMilliseconds is 800" in words
        assert "from 800 to" in cure

        queue = sick(maxNumSeqs=1)
        words, cure = await engine.provoke("QueueTooLong", queue, lambda: engine.ask("Once upon a time", 12), 6)
        # The second where hardly any request begins inside of the window.
        assert "is queue wait" in words or "at this rate one that comes now begins in" in words
        # Which of the two: the limit or the count, as the share of the window with a full engine says.
        assert "raise spec." in cure

        crowd = sick()
        words, cure = await engine.provoke("KVCacheFull", crowd, lambda: engine.ask(LONG, 48), 12)
        assert "KV cache of the fullest engine is" in words
        assert "of 16 sequences running" in words
        assert f"kvCacheMemoryMebibytes above {KV_MEBIBYTES}" in cure

        words, cure = await engine.provoke("RivalWriter", sick(), engine.write_limits, 1)
        assert "to maxNumSeqs 9" in words
        assert "let one writer own it" in cure
    events = json.loads(steps.run(["kubectl", "get", "events", "-n", namespace, "-o", "json"]))["items"]
    told = {event["reason"] for event in events if event["type"] == "Warning"}
    assert {"BatchWaitTooLong", "QueueTooLong", "KVCacheFull", "PromptsTooLong", "RivalWriter"} <= told
