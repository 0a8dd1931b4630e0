"""A closed-loop load for the end-to-end tests: every request's fate is kept, so that "not one stream cut" is a count.

It asks for what the machine can do, however slow that is: a client asks again when it was answered, and every second answer
brings one more client, until there are as many as wanted. So the queue is as long on a fast machine as on a slow one, and
it is worked off within a few answers once the load ends. Answers differ in length, so that no two clients keep step; the
autoscaler would take that for bursts, and prepare for them.

It does what a careful client does. It talks to the pods that the fleet's EndpointSlices list as ready, picks the one
with the fewest requests of its own in flight (of several the one that it left alone for longest), and tries again elsewhere when an engine answers UNAVAILABLE before the
first token (which means: not started); where all listed ones have, it asks for a newer list. Anything else that ends a stream early is a failure.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
import steps
from fleets import SOON_S

from headway_rpc import EngineStub, pb

ANSWERS_EACH = 2  # before one more client begins
RESTS = 4  # pauses of a client that rests, as a multiple of the time that its answer took
ANSWER_S = 600.0  # for an answer: nobody waits for one in vain
LENGTHS = (0.5, 1.25, 0.75, 1.5, 1.0)  # of answers in turn, shares of `max_tokens`


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


def endpoints(fleet: str, namespace: str, count: int = 1) -> list[str]:
    """Wait until the fleet's Service routes to so many pods. Kubernetes lists a pod some time after it is ready."""
    found: list[str] = []

    def listed() -> bool:
        found[:] = ready_addresses(fleet, namespace)
        return len(found) == count

    steps.wait_until(f"{count} endpoints of {fleet}", listed, timeout_s=SOON_S)
    return found


class Load:
    """A running load. Use as an async context manager: leaving it waits for every request that was started."""

    def __init__(
        self,
        fleet: str,
        namespace: str,
        *,
        clients: int,
        prompt: str,
        max_tokens: int,
        rests: bool = False,
        replicas: int = 1,
    ) -> None:
        """A load on a fleet of so many replicas.

        `rests`: each client pauses for four times as long as its answer took; one alone keeps a fifth of an engine busy.
        """
        self.outcome = Outcome()
        self._fleet, self._namespace = fleet, namespace
        self._clients, self._rests, self._replicas = clients, rests, replicas
        self._prompt = prompt
        self._max_tokens = itertools.cycle([round(share * max_tokens) for share in LENGTHS])
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._ready: list[str] = []
        self._in_flight: Counter[str] = Counter()
        self._turns = itertools.count()
        self._last_turn: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._ready = await asyncio.to_thread(endpoints, self._fleet, self._namespace, self._replicas)
        self._tasks = [asyncio.create_task(self._refresh()), asyncio.create_task(self._arrive())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.finish()
        if error is not None:
            error.add_note(f"the load meanwhile: {self.outcome}")

    async def until(self, what: str, check: Callable[[], bool], timeout_s: float) -> None:
        """Wait beside the load. Where that has failed nothing else will come of it.

        Raises:
            StepError: the load failed, or not within `timeout_s`.
        """

        def holds() -> bool:
            if self.outcome.failures:
                raise steps.StepError(f"{what}: the load failed first")
            return check()

        await asyncio.to_thread(steps.wait_until, what, holds, timeout_s=timeout_s)

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
            await self._list()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)

    async def _list(self) -> None:
        self._ready = await asyncio.to_thread(ready_addresses, self._fleet, self._namespace)

    async def _arrive(self) -> None:
        answers = itertools.count(1)

        async def client() -> None:
            # A failure ends the load: the test has failed, and a fleet without endpoints would fail it in an endless loop.
            while not (self._stop.is_set() or self.outcome.failures):
                asked_s = time.monotonic()
                await self._one()
                if next(answers) % ANSWERS_EACH == 0 and len(begun) < self._clients:
                    begun.append(clients.create_task(client()))
                if self._rests:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), RESTS * (time.monotonic() - asked_s))

        async with asyncio.TaskGroup() as clients:
            begun = [clients.create_task(client())]

    async def _one(self) -> None:
        tried: set[str] = set()
        wanted, asked_s = next(self._max_tokens), time.monotonic()
        request = pb.GenerateRequest(
            text=self._prompt, sampling_params=pb.SamplingParams(max_tokens=wanted, temperature=0.0, ignore_eos=True)
        )
        while True:
            if tried.issuperset(self._ready):
                await self._list()
                tried.clear()
            candidates = [a for a in self._ready if a not in tried]
            if not candidates:
                self.outcome.failures.append("no ready endpoint")
                return
            address = min(candidates, key=lambda a: (self._in_flight[a], self._last_turn[a]))
            self._last_turn[address] = next(self._turns)
            if address not in self._channels:
                self._channels[address] = grpc.aio.insecure_channel(address)
            self._in_flight[address] += 1
            tokens = 0
            try:
                async for message in EngineStub(self._channels[address]).Generate(request, timeout=ANSWER_S):
                    tokens += len(message.chunk.token_ids)
                    if message.HasField("complete"):
                        self._check(address, wanted, message.complete)
                        return
                self.outcome.failures.append(f"{address}: the stream ended without `complete` after {tokens} tokens")
                return
            except grpc.aio.AioRpcError as error:
                if (
                    error.code() == grpc.StatusCode.UNAVAILABLE
                    and tokens == 0
                    and time.monotonic() - asked_s < ANSWER_S
                ):
                    tried.add(address)
                    self.outcome.retried += 1
                    continue
                self.outcome.failures.append(f"{address}: {error.code().name} after {tokens} tokens: {error.details()}")
                return
            finally:
                self._in_flight[address] -= 1

    def _check(self, address: str, wanted: int, complete: pb.GenerateComplete) -> None:
        tokens = len(complete.output_ids)
        if tokens == wanted and complete.finish_reason == pb.LENGTH:
            self.outcome.completed += 1
            self.outcome.by_address[address] += 1
        else:
            self.outcome.failures.append(f"{address}: {tokens} tokens, {pb.FinishReason.Name(complete.finish_reason)}")
