"""Bursts: some clients ask at the same moment, all are answered, a pause, and again.

How long the answers are follows the machine: as many tokens as it makes in `AIM_S` seconds while a burst is in the engine. So a burst
is the same work for a slow engine as for a fast one, and what a fleet has to do about it is the same.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import steps
from load_client import ANSWER_S, LENGTHS

from headway_rpc import EngineStub, pb

AIM_S = 0.9  # for a mean answer
FIRST_TOKENS, FEWEST, MOST = 8.0, 2.0, 200.0  # tokens of a mean answer


@dataclass(frozen=True, slots=True)
class Answer:
    """How long a request waited for its slot, and how long it took from then on."""

    tokens: int
    queue_s: float
    own_s: float


class Bursts:
    """A running load of bursts on one engine. Use as an async context manager: leaving it waits for the answers.

    Attributes:
        size, rest_s: clients of the next burst, and the pause after it.
    """

    def __init__(self, address: str, prompt: str, size: int, rest_s: float) -> None:
        """Bursts of so many clients that ask the same."""
        self.size, self.rest_s = size, rest_s
        self._address, self._prompt = address, prompt
        self._seen: list[list[Answer]] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        await self._task
        if error is not None:
            error.add_note(f"the bursts meanwhile: {self.told()}")

    async def until(self, what: str, check: Callable[[], bool], timeout_s: float) -> None:
        """Wait beside the load, or until a request fails: leaving says why.

        Raises:
            StepError: not within `timeout_s`.
        """
        await asyncio.to_thread(steps.wait_until, what, lambda: self._task.done() or check(), timeout_s=timeout_s)

    def told(self) -> str:
        """Of each burst: clients, the longest wait for a slot, and the shortest and the longest time of an answer from then on, seconds."""
        return "; ".join(
            f"{len(burst)}: {max(one.queue_s for one in burst):.1f}, "
            f"{min(one.own_s for one in burst):.1f}-{max(one.own_s for one in burst):.1f}"
            for burst in self._seen
        )

    async def _run(self) -> None:
        shares, mean = itertools.cycle(LENGTHS), FIRST_TOKENS
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = EngineStub(channel)
            while not self._stop.is_set():
                lengths = [max(1, round(next(shares) * mean)) for _ in range(self.size)]
                burst = await asyncio.gather(*(self._answer(stub, length) for length in lengths))
                self._seen.append(burst)
                mean = min(max(AIM_S / self._token_s(), FEWEST), MOST)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self.rest_s)

    def _token_s(self) -> float:
        """What a token of an answer took: in the last burst, or in all of them when that is more.

        A machine that has become slow gets shorter answers at once, one that was fast for a moment no longer ones.
        """
        return max(_token_s(self._seen[-1]), _token_s([one for burst in self._seen for one in burst]))

    async def _answer(self, stub: EngineStub, tokens: int) -> Answer:
        parameters = pb.SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        request = pb.GenerateRequest(text=self._prompt, sampling_params=parameters)
        asked_s = time.monotonic()
        async for message in stub.Generate(request, timeout=ANSWER_S):
            if message.HasField("complete"):
                queue_s = message.complete.queue_ms / 1000
                assert len(message.complete.output_ids) == tokens
                return Answer(tokens, queue_s, time.monotonic() - asked_s - queue_s)
        raise AssertionError("the stream ended without `complete`")


def _token_s(answers: list[Answer]) -> float:
    return sum(one.own_s for one in answers) / sum(one.tokens for one in answers)
