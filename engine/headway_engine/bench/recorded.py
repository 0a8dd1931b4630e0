"""An engine below its tokenizer whose every token is timed, and the two ways to load it.

Closed loop: so many clients, each sends its next request when its last one has ended. Open loop: requests come when their
time has come, whatever the engine does. Times are taken where the step thread publishes a step's events, which is where the
server would begin to write them.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from headway_engine.bench.shapes import TEMPERATURE, Work, started_loop
from headway_engine.core.batch import Executor
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.request import FinishReason, Rejected, Request, RequestId, SamplingParams
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loop import Submit, UpdateLimits


@dataclass(slots=True)
class Timed:
    """One request: when it came, and when each of its tokens did."""

    arrival_s: float
    token_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Latencies:
    """What the clients of one run saw; times in milliseconds."""

    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    worst_gaps_ms: tuple[float, ...]  # the longest gap of each request
    tokens_per_s: float


class RecordedEngine:
    """A step loop around an executor."""

    def __init__(
        self, executor: Executor, tokens_ahead: int, setup: EngineConfig, max_len: int, vocabulary: int
    ) -> None:
        self._random = random.Random(0)  # noqa: S311 - prompts, not secrets
        self._vocabulary = vocabulary
        self._open: dict[RequestId, Timed] = {}
        self._records: list[Timed] = []
        self._backlog: list[Work] = []  # of a closed loop
        self._done = threading.Event()
        self._sent = 0
        self._error = ""
        self._loop = started_loop(executor, tokens_ahead, setup, max_len, self)

    def set_limits(self, patch: LimitsPatch) -> None:
        """Change the live limits, as an operator would.

        Raises:
            ValueError: they are refused.
        """
        answered = threading.Event()
        answers: list[RuntimeConfigState | Rejected] = []

        def reply(result: RuntimeConfigState | Rejected) -> None:
            answers.append(result)
            answered.set()

        self._loop.send(UpdateLimits(patch, 0, None, reply))
        answered.wait()
        if isinstance(answers[0], Rejected):
            raise ValueError(answers[0].message)  # noqa: TRY004 - its type is right

    def work(self, prompt: int, output: int) -> Work:
        """A request with a random prompt."""
        return Work(tuple(self._random.randrange(self._vocabulary) for _ in range(prompt)), output)

    def closed(self, clients: int, work: Sequence[Work]) -> Latencies:
        """Answer all of it with `clients` requests at a time."""
        self._begin()
        self._backlog = list(work[clients:])
        self._send(work[:clients])
        self._done.wait()
        return self._latencies()

    def open(self, arrivals: Sequence[tuple[float, Work]]) -> Latencies:
        """Send each request at its time, seconds from now."""
        self._begin()
        started = time.monotonic()
        for at_s, item in arrivals:
            time.sleep(max(0.0, started + at_s - time.monotonic()))
            self._send([item])
        while self._open and not self._error:
            self._done.wait()
            self._done.clear()
        return self._latencies()

    def close(self) -> None:
        """Stop the loop."""
        self._loop.stop()

    def publish(self, events: Sequence[StepEvent]) -> None:
        """See `runtime.loop.EventSink`."""
        now = time.monotonic()
        for event in events:
            timed = self._open[event.request_id]
            timed.token_s += [now] * len(event.token_ids)
            if event.finished is not None:
                del self._open[event.request_id]
                if event.finished.reason is FinishReason.ERROR:
                    self._error = event.finished.error
                if self._backlog:
                    self._send([self._backlog.pop(0)])
        if not self._open:
            self._done.set()

    def changed(self) -> None:
        """See `runtime.loop.EventSink`."""

    def fail(self, message: str) -> None:
        """See `runtime.loop.EventSink`."""
        self._error = message
        self._done.set()

    def _begin(self) -> None:
        self._records, self._error = [], ""
        self._done.clear()

    def _send(self, work: Sequence[Work]) -> None:
        now = time.monotonic()
        commands = []
        for item in work:
            self._sent += 1
            request_id = RequestId(f"r{self._sent}")
            sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=item.output_tokens, ignore_eos=True)
            commands.append(Submit(Request(request_id, now, prompt_ids=item.prompt, sampling=sampling), self._sent))
            self._open[request_id] = timed = Timed(now)
            self._records.append(timed)
        self._done.clear()
        self._loop.send(*commands)

    def _latencies(self) -> Latencies:
        if self._error:
            raise RuntimeError(self._error)
        records = self._records
        gaps = [[(b - a) * 1000 for a, b in pairwise(record.token_s)] for record in records]
        span_s = max(record.token_s[-1] for record in records) - min(record.arrival_s for record in records)
        return Latencies(
            ttft_ms=tuple((record.token_s[0] - record.arrival_s) * 1000 for record in records),
            itl_ms=tuple(gap for of_one in gaps for gap in of_one),
            worst_gaps_ms=tuple(max(of_one) for of_one in gaps if of_one),
            tokens_per_s=sum(len(record.token_s) for record in records) / span_s,
        )
