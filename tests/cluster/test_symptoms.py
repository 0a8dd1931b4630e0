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
from fleets import SOON_S, apply, events, manifest
from load_client import ANSWER_S, endpoints

from headway_rpc import EngineControlStub, EngineStub, pb

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

NAME = "sick"
KV_MEBIBYTES = 64  # 1,456 tokens of SmolLM2
SENTENCE = "Once upon a time "  # four tokens
LONG = SENTENCE * 50
# A prompt that is too long for the target takes three times as long: so much may the machine's speed waver. Its length is what
# this engine computes in PREFILL_S, so that eight of them fit into the window whatever the machine.
PREFILL_S, MARGIN = 3.0, 3.0
FEWEST, MOST = 10, 220  # sentences; the engine takes 1024 tokens
SHOWS_S = 300.0  # for a symptom: some windows, and the requests of one on a slow machine
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
    """The fleet with another target for first tokens, as near to the one given as the class allows; the least by 0."""
    found = sick()
    found["spec"]["slo"] |= {
        "workloadClass": "interactive",
        "ttft": {"targetMilliseconds": round(min(2000, max(500, ttft_ms)))},
        # Eight first tokens make a percentile, on a machine that became three times as slow too.
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
        async for _ in self._data.Generate(request, timeout=ANSWER_S):
            pass

    async def too_long(self) -> int:
        """Sentences of a prompt that takes PREFILL_S, as near as the engine's length allows."""
        sample = 75
        # The first prompt of an engine takes longer than the others.
        await self.ask(SENTENCE * sample, 1)
        return max(FEWEST, min(MOST, round(sample * PREFILL_S / await self.prefill_s(sample))))

    async def prefill_s(self, sentences: int) -> float:
        """Seconds from a prompt of so many to its first token."""
        began_s = time.monotonic()
        await self.ask(SENTENCE * sentences, 1)
        return time.monotonic() - began_s

    async def write_limits(self) -> None:
        """What a rival does: limits that the operator never asked for, and again when it has put them right."""
        foreign = pb.Limits(max_num_seqs=9)
        await self._control.UpdateRuntimeConfig(
            pb.UpdateRuntimeConfigRequest(limits=foreign, lease_seconds=60), timeout=SOON_S
        )
        while "RivalWriter" not in await asyncio.to_thread(self._symptoms):
            now = await self._control.GetRuntimeConfig(pb.GetRuntimeConfigRequest(), timeout=SOON_S)
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
            steps.wait_until, "its limits", lambda: self._limits().items() >= wanted.items(), timeout_s=SOON_S
        )
        causes = [asyncio.create_task(_repeat(cause)) for _ in range(clients)]
        try:
            reported = await asyncio.to_thread(
                steps.wait_until, symptom, lambda: self._symptoms().get(symptom), timeout_s=SHOWS_S, every_s=1.0
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
        command = f"headway diagnose {NAME} --namespace {self._namespace} --seconds 20 --json || true"
        return {one["name"] for one in json.loads(steps.run(["sh", "-c", command]))["findings"]}


async def _repeat(cause: Callable[[], Awaitable[None]]) -> None:
    while True:
        await cause()


def test_symptoms_of_a_real_engine_are_named_with_their_numbers_and_cures(namespace: str) -> None:
    asyncio.run(_story(namespace))


async def _story(namespace: str) -> None:
    await asyncio.to_thread(apply, namespace, interactive(0))
    await asyncio.to_thread(steps.wait_ready, NAME, namespace)
    [address] = await asyncio.to_thread(endpoints, NAME, namespace)
    control = address.replace(":50051", ":50052")
    async with grpc.aio.insecure_channel(address) as data, grpc.aio.insecure_channel(control) as commands:
        engine = Engine(namespace, data, commands)

        # First: an idle engine is part of it, and nothing from before is in the window.
        sentences = await engine.too_long()
        prompts = interactive(1000 * await engine.prefill_s(sentences) / MARGIN)
        words, cure = await engine.provoke("PromptsTooLong", prompts, lambda: engine.ask(SENTENCE * sentences, 1), 1)
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
    names = ("BatchWaitTooLong", "QueueTooLong", "KVCacheFull", "PromptsTooLong", "RivalWriter")
    await asyncio.to_thread(events, NAME, namespace, *names)
