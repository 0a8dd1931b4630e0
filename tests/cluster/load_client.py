"""An open-loop client for the end-to-end tests: every request's fate is kept, so that "not one stream cut" is a count.

It does what a careful client does. It talks to the pods that the fleet's EndpointSlices list as ready, picks the one
with the fewest requests of its own in flight, and tries again elsewhere when an engine answers UNAVAILABLE before the
first token (which means: not started). Anything else that ends a stream early is a failure.
"""

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import grpc
import steps

from headway_rpc import EngineStub, pb


@dataclass(slots=True)
class Outcome:
    """What became of the requests."""

    completed: int = 0
    failures: list[str] = field(default_factory=list)
    retried: int = 0
    by_address: Counter[str] = field(default_factory=Counter)


def ready_addresses(fleet: str, namespace: str) -> list[str]:
    """Return host:port of every endpoint that the fleet's Service would route to."""
    slices = json.loads(
        steps.run(
            [
                "kubectl",
                "get",
                "endpointslices",
                "-n",
                namespace,
                "-l",
                f"kubernetes.io/service-name={fleet}",
                "-o",
                "json",
            ]
        )
    )["items"]
    return [
        f"{endpoint['addresses'][0]}:{port['port']}"
        for entry in slices
        for port in entry.get("ports") or []
        if port["name"] == "grpc"
        for endpoint in entry.get("endpoints") or []
        if endpoint["conditions"].get("ready")
    ]


class Load:
    """A running load. Use as an async context manager: leaving it waits for every request that was started."""

    def __init__(self, fleet: str, namespace: str, *, rate_per_s: float, prompt: str, max_tokens: int) -> None:
        self.outcome = Outcome()
        self._fleet, self._namespace = fleet, namespace
        self._rate_per_s = rate_per_s
        self._request = pb.GenerateRequest(
            text=prompt, sampling_params=pb.SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        )
        self._max_tokens = max_tokens
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._ready: list[str] = []
        self._in_flight: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._ready = await asyncio.to_thread(ready_addresses, self._fleet, self._namespace)
        self._tasks = [asyncio.create_task(self._refresh()), asyncio.create_task(self._arrive())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.finish()

    async def finish(self) -> Outcome:
        """Send nothing more, wait for what is in flight, and return what became of all of it."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        return self.outcome

    async def _refresh(self) -> None:
        while not self._stop.is_set():
            self._ready = await asyncio.to_thread(ready_addresses, self._fleet, self._namespace)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)

    async def _arrive(self) -> None:
        gaps = random.Random(0)
        requests: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            task = asyncio.create_task(self._one())
            requests.add(task)
            task.add_done_callback(requests.discard)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), gaps.expovariate(self._rate_per_s))
        await asyncio.gather(*requests)

    async def _one(self) -> None:
        tried: set[str] = set()
        for _ in itertools.count():
            candidates = [a for a in self._ready if a not in tried] or self._ready
            if not candidates:
                self.outcome.failures.append("no ready endpoint")
                return
            address = min(candidates, key=lambda a: self._in_flight[a])
            if address not in self._channels:
                self._channels[address] = grpc.aio.insecure_channel(address)
            self._in_flight[address] += 1
            tokens = 0
            try:
                async for message in EngineStub(self._channels[address]).Generate(self._request, timeout=300):
                    tokens += len(message.chunk.token_ids)
                    if message.HasField("complete"):
                        self._check(address, len(message.complete.output_ids), message.complete.finish_reason)
                        return
                self.outcome.failures.append(f"{address}: the stream ended without `complete` after {tokens} tokens")
                return
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE and tokens == 0 and len(tried) < 5:
                    tried.add(address)
                    self.outcome.retried += 1
                    continue
                self.outcome.failures.append(f"{address}: {error.code().name} after {tokens} tokens: {error.details()}")
                return
            finally:
                self._in_flight[address] -= 1

    def _check(self, address: str, tokens: int, reason: "pb.FinishReason.ValueType") -> None:
        if tokens == self._max_tokens and reason == pb.LENGTH:
            self.outcome.completed += 1
            self.outcome.by_address[address] += 1
        else:
            self.outcome.failures.append(f"{address}: {tokens} tokens, {pb.FinishReason.Name(reason)}")
