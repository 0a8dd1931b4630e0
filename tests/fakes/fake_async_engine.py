"""An engine without a model: the boundary of ARCHITECTURE.md, whose steps a test makes by hand or a task makes freely.

A request with prompt tokens p yields p[0]+1, p[0]+2, ... one per step, as text "t<id> ". `step()` publishes one token to
every open stream in one go, as the step thread does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from headway_engine.core.admission import AdmissionBounds, validate
from headway_engine.core.histogram import HistogramRecorder
from headway_engine.core.limits import Bounds, Envelope, Limits, LimitsPatch, LimitsState, RuntimeConfigState
from headway_engine.core.logprobs import Candidate, TokenLogprobs
from headway_engine.core.metrics import ClassSnapshot
from headway_engine.core.request import Finished, FinishReason, Priority, Rejected, Request, StatusCode
from headway_engine.runtime.loaded import ModelInfo
from headway_engine.runtime.stats import Health, Loads, StatsSnapshot

MAX_MODEL_LEN = 2048
VOCAB_SIZE = 1000
ENVELOPE = Envelope(Bounds(1, 64), Bounds(64, 2048), Bounds(0, 1000), Bounds(1, 1024), Bounds(0, 1024))
LIMITS = Limits(64, 2048, 0, 256)


@dataclass(frozen=True, slots=True)
class FakeItem:
    token_ids: tuple[int, ...] = ()
    text: str = ""
    finished: Finished | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(eq=False)
class FakeStream:
    engine: "FakeAsyncEngine"
    request: Request
    queue: "asyncio.Queue[FakeItem]" = field(default_factory=asyncio.Queue)
    output: list[int] = field(default_factory=list)
    cancelled: bool = False

    @property
    def request_id(self) -> str:
        return self.request.request_id

    async def __aiter__(self) -> AsyncIterator[FakeItem]:
        while True:
            item = await self.queue.get()
            yield item
            if item.finished is not None:
                return

    def cancel(self) -> None:
        self.cancelled = True
        self.engine.open.pop(self.request_id, None)
        self.engine.wake()

    def advance(self) -> None:
        token = (self.request.prompt_ids or (0,))[0] + len(self.output) + 1
        self.output.append(token)
        done = len(self.output) >= (self.request.sampling.max_tokens or MAX_MODEL_LEN)
        finished = self.end(FinishReason.LENGTH) if done else None
        text, count = f"t{token} ", self.request.sampling.logprobs
        scores: tuple[TokenLogprobs, ...] = ()
        if count is not None:
            best = (Candidate(token, -0.5, text), Candidate(0, -1.5, "\ufffd"))
            scores = (TokenLogprobs(best[0], best[:count]),)
        self.queue.put_nowait(FakeItem((token,), text, finished, scores))

    def end(self, reason: FinishReason) -> Finished:
        self.engine.open.pop(self.request_id, None)
        self.engine.finished[reason] = self.engine.finished.get(reason, 0) + 1
        self.engine.wake()
        return Finished(reason, tuple(self.output), len(self.request.prompt_ids) or 1, 1.5, 2.5)


class FakeAsyncEngine:
    """With `auto` the steps run by themselves as long as a stream is open."""

    def __init__(self, auto: bool = False, queue_bound: int = 10_000) -> None:
        self.boot_id = "boot-1"
        self.open: dict[str, FakeStream] = {}
        self.submits = 0
        self.submitted: list[Request] = []
        self.streams: list[FakeStream] = []
        self.finished: dict[str, int] = {}
        self.queue_bound = queue_bound
        self.draining = False
        self.stopped = False
        self.alive = True
        self.submit_gate: asyncio.Event | None = None
        self.ttft = HistogramRecorder()
        self.limits = LimitsState(ENVELOPE, LIMITS, LIMITS)
        self._changed = asyncio.Event()
        self._auto = asyncio.create_task(self._run()) if auto else None

    def wake(self) -> None:
        self._changed.set()

    def step(self) -> None:
        for stream in list(self.open.values()):
            stream.advance()

    async def until(self, condition: "object") -> None:
        """Wait until `condition()` holds, woken by every change of the engine."""
        assert callable(condition)
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def submit(self, request: Request) -> FakeStream | Rejected:
        self.submits += 1
        self.wake()
        if self.submit_gate is not None:
            await self.submit_gate.wait()
        if self.draining:
            return Rejected(StatusCode.UNAVAILABLE, "the engine is draining; nothing was started, retry elsewhere")
        problem = validate(request, AdmissionBounds(MAX_MODEL_LEN, 100_000, VOCAB_SIZE))
        if problem is not None:
            return problem
        if len(self.open) >= self.queue_bound:
            return Rejected(StatusCode.RESOURCE_EXHAUSTED, f"the queue is full ({self.queue_bound})", 250)
        if request.request_id in self.open:
            return Rejected(StatusCode.ALREADY_EXISTS, f"request_id {request.request_id!r} is in flight")
        stream = FakeStream(self, request)
        self.submitted.append(request)
        self.streams.append(stream)
        self.open[request.request_id] = stream
        self.wake()
        return stream

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        stream = self.open.get(request_id)
        if stream is None:
            return False
        stream.queue.put_nowait(FakeItem(finished=stream.end(reason)))
        return True

    def give_back(self, request_ids: Sequence[str], most: int) -> None:
        """Nothing waits here: what is open is running."""

    def model_info(self) -> ModelInfo:
        return ModelInfo("fake", "llama", "float32", "cpu", MAX_MODEL_LEN, VOCAB_SIZE, (2,), "0.0", "")

    def loads(self) -> Loads:
        running = len(self.open)
        return Loads(
            running, 0, running, 10 * running, 1000, running / 100, 12.5, 64, 0, self.draining, boot_id=self.boot_id
        )

    def stats(self) -> StatsSnapshot:
        empty = HistogramRecorder().snapshot()
        return StatsSnapshot(
            boot_id=self.boot_id,
            uptime_seconds=3.0,
            loads=self.loads(),
            ttft=self.ttft.snapshot(),
            queue_wait=empty,
            prefill=empty,
            itl=empty,
            e2e=empty,
            step=empty,
            requests_received=len(self.submitted),
            requests_finished=dict(self.finished),
            requests_rejected={"queue_full": 1},
            prompt_tokens=11,
            cached_prompt_tokens=7,
            generation_tokens=22,
            preemptions=3,
            steps=4,
            config=self.runtime_config(),
            classes={Priority.REALTIME: ClassSnapshot(self.ttft.snapshot(), empty, empty, 2, 1, 3, 30, 20, 10)},
        )

    def runtime_config(self) -> RuntimeConfigState:
        return self.limits.view(time.monotonic())

    async def update_limits(
        self, patch: LimitsPatch, lease_s: int, expected_revision: int | None
    ) -> RuntimeConfigState | Rejected:
        state = self.limits.update(patch, lease_s, expected_revision, time.monotonic())
        if isinstance(state, Rejected):
            return state
        self.limits = state
        return self.runtime_config()

    def begin_drain(self) -> None:
        self.draining = True
        self.wake()

    async def wait_idle(self, timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.until(lambda: not self.open)
        except TimeoutError:
            return False
        return True

    async def wait_ended(self) -> None:
        await self.until(lambda: not self.alive)

    def health(self) -> Health:
        return Health(self.alive, self.alive and not self.draining, "ok" if self.alive else "the step loop is dead")

    async def stop(self) -> None:
        self.stopped = True
        for request_id in list(self.open):
            self.abort(request_id)
        if self._auto is not None:
            self._auto.cancel()

    async def _run(self) -> None:
        while True:
            await self.until(lambda: self.open)
            self.step()
            await asyncio.sleep(0.002)
