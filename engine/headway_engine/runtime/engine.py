"""The engine as the server sees it: every method is safe on the event loop and none of them waits for a step.

`submit` checks a request, tokenizes it and has the form of its answer compiled in worker threads, and sends it to the step
loop. A caller that is cancelled while it waits for the tokenizer leaves nothing behind: the request becomes known to the
step loop and to the streams together, after the last await.

The queue bound counts requests in flight that hold no slot. Those that the next step could start at once do not count, so
an idle engine takes `max_num_seqs + max_queued_requests` requests in one instant, and a full one `max_queued_requests`.
"""

import asyncio
import secrets
import time
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from headway_engine.core import slack
from headway_engine.core.admission import AdmissionBounds, fit, validate, validate_tokens_of_text
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.metrics import ClassSnapshot, MetricsSnapshot
from headway_engine.core.request import FinishReason, Priority, Rejected, Request, RequestId, StatusCode
from headway_engine.core.scheduler import StepEvent
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loaded import LoadedModel, ModelInfo
from headway_engine.runtime.loop import Abort, GiveBack, Submit
from headway_engine.runtime.remote_steps import RemoteSteps
from headway_engine.runtime.stats import Health, Intake, Loads, RejectReason, StatsSnapshot, ThroughputWindow
from headway_engine.runtime.step_wire import LoadModel
from headway_engine.runtime.steps import LimitsChange, LocalSteps, OpenSteps
from headway_engine.runtime.streams import Streams, TokenStream
from headway_engine.runtime.tokenize import TokenizerPool


@dataclass(slots=True)
class _Entering:
    """A request in tokenization; `ended`: the reason of an abort that came meanwhile."""

    kind: Priority
    moved: bool
    ended: FinishReason | None = None


class AsyncEngine:
    """A running engine; make it with `start`, or with `embed` around a model of this process."""

    def __init__(self, config: EngineConfig, open_steps: OpenSteps) -> None:
        self._streams = Streams(asyncio.get_running_loop(), self._on_delivered)
        self._steps = open_steps(self._streams)
        served = self._steps.served
        facts, tokenizer = served.model_info, served.tokenizer
        self._bounds = AdmissionBounds(
            facts.max_model_len,
            served.capacity_tokens,
            facts.vocab_size,
            tokenizer.words_apart,
            config.prompt_policy,
        )
        self._tokenizer = tokenizer
        self._tokenizers = TokenizerPool(tokenizer)
        # The requests sent that `LoopState` does not include yet, oldest first; and how many were sent.
        self._unseen: deque[Request] = deque()
        self._sent = 0
        self._kv_capacity = served.capacity_tokens
        self._entering: dict[RequestId, _Entering] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._intake = Intake()
        self._throughput = ThroughputWindow()
        self._boot_id = uuid.uuid4().hex
        self._started_s = time.monotonic()
        self._model_info = ModelInfo(
            model=config.model_name,
            architecture=facts.architecture,
            dtype=facts.dtype,
            device=facts.device,
            max_model_len=facts.max_model_len,
            vocab_size=facts.vocab_size,
            eos_token_ids=tokenizer.eos_token_ids,
            engine_version=_version(),
            chat_template=tokenizer.chat_template,
        )

    @classmethod
    async def start(cls, config: EngineConfig, load: LoadModel | None = None) -> "AsyncEngine":
        """Load the model and run its steps in a process of their own.

        Args:
            config: what to serve, and how.
            load: yields the model in that process, so it must be a function that it can import; None: `config.model`'s files.

        Raises:
            ModelLoadError: the model cannot be served.
            ValueError: the baseline limits are outside the envelope; the message names field and bound.
        """
        problem = config.problem()
        if problem is not None:
            raise ValueError(problem)
        steps = await RemoteSteps.start(config, load)
        return cls(config, steps.opened)

    @classmethod
    def embed(cls, config: EngineConfig, model: LoadedModel) -> "AsyncEngine":
        """An engine around a model of this process, with the step loop in a thread."""
        return cls(config, lambda sink: LocalSteps(config, model, sink))

    async def submit(self, request: Request) -> TokenStream | Rejected:
        """Queue a request; what cannot be served is refused here and costs no step."""
        self._intake.received += not request.moved
        answer = await self._take(request)
        self._intake.received += request.moved and isinstance(answer, Rejected)
        return answer

    async def _take(self, request: Request) -> TokenStream | Rejected:
        kind = self._steps.state.limits.effective.default_class if request.priority is None else request.priority
        # Named from here on: what is counted by class here, and what the scheduler does, must not differ.
        request = fit(replace(request, priority=kind), self._bounds)
        refused = self._refusal(request, kind)
        if refused is not None:
            return refused
        request_id = request.request_id
        self._entering[request_id] = _Entering(kind, request.moved)
        self._idle.clear()
        try:
            if request.text is not None:
                ids = tuple(await self._tokenizers.encode(request.text))
                request = fit(replace(request, text=None, prompt_ids=ids), self._bounds)
                invalid = validate_tokens_of_text(request.prompt_ids, self._bounds)
                if invalid is not None:
                    return self._refuse(RejectReason.INVALID, invalid)
            if request.sampling.constraint is not None:
                await self._steps.prepare(request_id, request.sampling.constraint)
            return self._enter(request)
        except ConstraintError as error:
            return self._refuse(RejectReason.INVALID, Rejected(StatusCode.INVALID_ARGUMENT, str(error)))
        finally:
            del self._entering[request_id]
            self._note_idle()

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        """End a request; its stream ends with `reason`. False when it is not in flight."""
        key = RequestId(request_id)
        if key in self._entering:
            self._entering[key].ended = reason
            return True
        if key not in self._streams:
            return False
        self._steps.send(Abort(key, reason))
        return True

    def give_back(self, request_ids: Sequence[str], most: int) -> None:
        """End at most so many batch requests among these that have not begun, each with reason GIVEN_BACK."""
        known = frozenset(map(RequestId, request_ids))
        self._steps.send(GiveBack(known, most))

    def model_info(self) -> ModelInfo:
        """What is served."""
        return self._model_info

    def loads(self) -> Loads:
        """Figures of this moment."""
        state = self._steps.state
        running = min(state.num_running, self._num_in_flight())  # none of a step loop that has died
        waiting = self._num_waiting()
        return Loads(
            num_running=running,
            num_waiting=waiting,
            num_total=running + waiting,
            used_tokens=state.kv_tokens,
            max_total_num_tokens=self._kv_capacity,
            token_usage=state.kv_tokens / self._kv_capacity,
            gen_throughput=self._throughput.rate(time.monotonic()),
            max_running_requests=state.limits.effective.max_num_seqs,
            waiting_prompt_tokens=state.backlog_tokens + self._unseen_prompt_tokens(*Priority),
            draining=self._draining,
            num_waiting_batch=self._num_waiting_batch(),
            waiting_batch_prompt_tokens=state.batch_backlog_tokens + self._unseen_prompt_tokens(Priority.BATCH),
            room_for_batch=self._room_for_batch(),
            default_class=state.limits.effective.default_class,
            boot_id=self._boot_id,
        )

    def stats(self) -> StatsSnapshot:
        """Counters and histograms since the process started."""
        metrics = self._steps.state.metrics
        return StatsSnapshot(
            boot_id=self._boot_id,
            uptime_seconds=time.monotonic() - self._started_s,
            loads=self.loads(),
            ttft=metrics.ttft,
            queue_wait=metrics.queue_wait,
            prefill=metrics.prefill,
            itl=metrics.itl,
            e2e=metrics.e2e,
            step=metrics.step,
            requests_received=self._intake.received,
            requests_finished={reason.value: count for reason, count in metrics.finished},
            requests_rejected={reason.value: count for reason, count in self._intake.rejected.items()},
            prompt_tokens=metrics.prompt_tokens,
            cached_prompt_tokens=metrics.cached_prompt_tokens,
            generation_tokens=metrics.generation_tokens,
            preemptions=metrics.preemptions,
            steps=metrics.steps,
            config=self.runtime_config(),
            classes=self._classes(metrics),
        )

    def _classes(self, metrics: MetricsSnapshot) -> dict[Priority, ClassSnapshot]:
        """The classes that had requests; with what the step thread does not know, or not yet."""
        intake, entering = self._intake, self._entering.values()
        coming = Counter(one.kind for one in entering if not one.moved)
        moving = Counter(one.kind for one in entering if one.moved)
        return {
            kind: replace(
                one,
                admitted=intake.admitted[kind] + coming[kind],
                prompt_tokens_admitted=intake.prompt_tokens_admitted[kind],
                refused=intake.queue_full[kind],
                moved=one.moved + intake.taken_over[kind] + moving[kind],
            )
            for kind, one in zip(Priority, metrics.classes, strict=True)
            if intake.admitted[kind] + coming[kind] + intake.taken_over[kind] + moving[kind] or intake.queue_full[kind]
        }

    def runtime_config(self) -> RuntimeConfigState:
        """The limits in effect."""
        return self._steps.state.limits.view(time.monotonic())

    async def update_limits(
        self, patch: LimitsPatch, lease_s: int, expected_revision: int | None
    ) -> RuntimeConfigState | Rejected:
        """Change limits between two steps; returns the state after the change, or why it was refused."""
        return await self._steps.update_limits(LimitsChange(patch, lease_s, expected_revision))

    def begin_drain(self) -> None:
        """Stop admission; requests in flight go on."""
        self._draining = True

    async def wait_idle(self, timeout_s: float | None) -> bool:
        """Wait until nothing is in flight; False when `timeout_s` passed before."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def health(self) -> Health:
        """Whether the step loop makes progress, and whether new requests are welcome."""
        trouble = self._steps.trouble(time.monotonic())
        if trouble is not None:
            return Health(alive=False, ready=False, detail=trouble)
        if self._draining:
            return Health(alive=True, ready=False, detail="draining")
        return Health(alive=True, ready=True, detail="")

    async def stop(self) -> None:
        """End what is in flight with ABORT, and the threads."""
        self._draining = True
        await self._steps.stop()
        self._tokenizers.close()

    def _refusal(self, request: Request, kind: Priority) -> Rejected | None:
        """Why `request` is not taken, or None."""
        trouble = self._steps.trouble(time.monotonic())
        if self._draining or trouble is not None:
            message = "the engine is draining" if trouble is None else trouble
            return self._refuse(RejectReason.DRAINING, Rejected(StatusCode.UNAVAILABLE, message))
        invalid = validate(request, self._bounds)
        if invalid is not None:
            return self._refuse(RejectReason.INVALID, invalid)
        if request.request_id in self._entering or request.request_id in self._streams:
            message = f"request_id {request.request_id} is in flight already"
            return self._refuse(RejectReason.INVALID, Rejected(StatusCode.ALREADY_EXISTS, message))
        full = self._queue_full(kind, moved=request.moved)
        if full is None:
            return None
        self._intake.queue_full[kind] += 1
        return self._refuse(RejectReason.QUEUE_FULL, full)

    def _queue_full(self, kind: Priority, *, moved: bool) -> Rejected | None:
        """Why there is no room in the queue. Batch work that waits takes none from better classes.

        What another engine had taken comes on top, as much as one more engine can hold.
        """
        state = self._steps.state
        limits, queued = state.limits.effective, self._num_waiting()
        apart = limits.max_queued_batch_requests > 0
        if apart and kind is Priority.BATCH:
            name, bound = "limits.max_queued_batch_requests", limits.max_queued_batch_requests
        else:
            name, bound = "limits.max_queued_requests", limits.max_queued_requests
            queued -= self._num_waiting_batch() if apart else 0
        starting = state.open_slots
        more = bound + limits.max_num_seqs if moved else 0
        if queued < bound + more + starting:
            return None
        own = state.metrics.classes[kind].queue_wait
        wait_ms = (own if own.count else state.metrics.queue_wait).quantile(0.5) or 0.0
        message = f"{queued - starting} requests wait for a slot, {name} is {bound}"
        message += f", and {more} more may come from other engines" if moved else ""
        return Rejected(StatusCode.RESOURCE_EXHAUSTED, message, int(min(max(wait_ms, 100.0), 10_000.0)))

    def _room_for_batch(self) -> int:
        """Slots that batch work may take, less all that is in flight. Where somebody waits for blocks, a slot alone does not help."""
        state, total = self._steps.state, self._num_in_flight()
        limits = state.limits.effective
        slots = limits.max_num_seqs - slack.kept_free(limits.max_num_seqs, limits)
        return slots - total if state.open_slots else min(slots - total, state.num_running - total)

    def _refuse(self, reason: RejectReason, rejected: Rejected) -> Rejected:
        self._intake.rejected[reason] += 1
        return rejected

    def _enter(self, request: Request) -> TokenStream | Rejected:
        """Make the request known to the step loop and to the streams; nothing awaits in here."""
        seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        if not self._steps.send(Submit(request, seed)):
            return self._refuse(RejectReason.DRAINING, Rejected(StatusCode.UNAVAILABLE, "the engine has stopped"))
        self._sent += 1
        self._unseen.append(request)
        self._forget_seen()  # also where nobody ever asks for loads
        entering = self._entering[request.request_id]
        self._intake.take(entering.kind, len(request.prompt_ids), moved=request.moved)
        stream = TokenStream(request, self._tokenizer, self.abort)
        self._streams.add(stream)
        if entering.ended is not None:
            self._steps.send(Abort(request.request_id, entering.ended))
        return stream

    def _num_waiting(self) -> int:
        """Requests that hold no slot: in the scheduler's queue, not seen by it yet, or in tokenization.

        Not the streams less those that run: a stream hears of its end when the step loop has given its slot to the next one.
        """
        self._forget_seen()
        known = self._steps.state.num_waiting + len(self._unseen) + len(self._entering)
        return min(known, self._num_in_flight())  # none of a step loop that has died

    def _num_waiting_batch(self) -> int:
        """Batch requests that hold no slot: in the scheduler's queue, and those that it has not seen yet."""
        self._forget_seen()
        coming = sum(entering.kind is Priority.BATCH for entering in self._entering.values())
        sent = sum(request.priority is Priority.BATCH for request in self._unseen)
        return self._steps.state.num_waiting_batch + sent + coming

    def _unseen_prompt_tokens(self, *kinds: Priority) -> int:
        self._forget_seen()
        return sum(len(request.prompt_ids) for request in self._unseen if request.priority in kinds)

    def _forget_seen(self) -> None:
        while len(self._unseen) > self._sent - self._steps.state.requests_taken:
            self._unseen.popleft()

    def _num_in_flight(self) -> int:
        return len(self._streams) + len(self._entering)

    def _on_delivered(self, events: Sequence[StepEvent]) -> None:
        """A step's events are with their streams."""
        tokens = sum(len(event.token_ids) for event in events)
        if tokens:
            self._throughput.record(tokens, time.monotonic())
        self._note_idle()

    def _note_idle(self) -> None:
        if self._num_in_flight() == 0:
            self._idle.set()


def _version() -> str:
    """Headway's; benchmarks also run in a checkout that is not installed."""
    try:
        return version("headway")
    except PackageNotFoundError:
        return "not installed"
