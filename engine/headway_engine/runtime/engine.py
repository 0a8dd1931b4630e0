"""The engine as the server sees it: every method is safe on the event loop and none of them waits for a step.

`submit` checks a request, tokenizes it and has the form of its answer compiled in worker threads, and sends it to the step
loop. A caller that is cancelled while it waits for the tokenizer leaves nothing behind: the request becomes known to the
step loop and to the streams together, after the last await.
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from headway_engine.core.admission import AdmissionBounds, fit, validate, validate_tokens_of_text
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import LimitsPatch, RuntimeConfigState
from headway_engine.core.request import FinishReason, Priority, Rejected, Request, RequestId, StatusCode
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.entrance import Entering, Entrance
from headway_engine.runtime.loaded import LoadedModel, ModelInfo
from headway_engine.runtime.loop import Abort, GiveBack, Submit
from headway_engine.runtime.remote_steps import RemoteSteps
from headway_engine.runtime.stats import Health, Loads, RejectReason, StatsSnapshot, ThroughputWindow
from headway_engine.runtime.step_wire import LoadModel
from headway_engine.runtime.steps import LimitsChange, LocalSteps, OpenSteps
from headway_engine.runtime.streams import Streams, TokenStream
from headway_engine.runtime.tokenize import TokenizerPool


class AsyncEngine:
    """A running engine; make it with `start`, or with `embed` around a model of this process."""

    def __init__(self, config: EngineConfig, open_steps: OpenSteps) -> None:
        self._ended = asyncio.Event()
        self._streams = Streams(asyncio.get_running_loop(), self._on_delivered, self._ended.set)
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
        self._entrance = Entrance(self._steps)
        self._kv_capacity = served.capacity_tokens
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
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
        counts = self._entrance.counts
        counts.received += not request.moved
        answer = await self._take(request)
        counts.received += request.moved and isinstance(answer, Rejected)
        return answer

    async def _take(self, request: Request) -> TokenStream | Rejected:
        kind = self._steps.state.limits.effective.default_class if request.priority is None else request.priority
        # Named from here on: what is counted by class here, and what the scheduler does, must not differ.
        request = fit(replace(request, priority=kind), self._bounds)
        refused = self._refusal(request, kind)
        if refused is not None:
            return refused
        request_id = request.request_id
        entering = self._entrance.begin(request_id, kind, moved=request.moved)
        self._idle.clear()
        try:
            if request.text is not None:
                ids = tuple(await self._tokenizers.encode(request.text))
                request = fit(replace(request, text=None, prompt_ids=ids), self._bounds)
                invalid = validate_tokens_of_text(request.prompt_ids, self._bounds)
                if invalid is not None:
                    return self._entrance.refuse(RejectReason.INVALID, invalid)
            if request.sampling.constraint is not None:
                await self._steps.prepare(request_id, request.sampling.constraint)
            return self._enter(request, entering)
        except ConstraintError as error:
            rejected = Rejected(StatusCode.INVALID_ARGUMENT, str(error))
            return self._entrance.refuse(RejectReason.INVALID, rejected)
        finally:
            self._entrance.end(request_id)
            self._note_idle()

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        """End a request; its stream ends with `reason`. False when it is not in flight."""
        key = RequestId(request_id)
        if self._entrance.abort(key, reason):
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
        # Of a step loop that has died nothing is in flight.
        running = min(state.num_running, self._num_in_flight())
        waiting = min(self._entrance.num_waiting(), self._num_in_flight())
        return Loads(
            num_running=running,
            num_waiting=waiting,
            num_total=running + waiting,
            used_tokens=state.kv_tokens,
            max_total_num_tokens=self._kv_capacity,
            token_usage=state.kv_tokens / self._kv_capacity,
            gen_throughput=self._throughput.rate(time.monotonic()),
            max_running_requests=state.limits.effective.max_num_seqs,
            waiting_prompt_tokens=state.backlog_tokens + self._entrance.prompt_tokens(*Priority),
            draining=self._draining,
            num_waiting_batch=self._entrance.num_waiting_batch(),
            waiting_batch_prompt_tokens=state.batch_backlog_tokens + self._entrance.prompt_tokens(Priority.BATCH),
            room_for_batch=self._entrance.room_for_batch(self._num_in_flight()),
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
            requests_received=self._entrance.counts.received,
            requests_finished={reason.value: count for reason, count in metrics.finished},
            requests_rejected={reason.value: count for reason, count in self._entrance.counts.rejected.items()},
            prompt_tokens=metrics.prompt_tokens,
            cached_prompt_tokens=metrics.cached_prompt_tokens,
            generation_tokens=metrics.generation_tokens,
            preemptions=metrics.preemptions,
            steps=metrics.steps,
            config=self.runtime_config(),
            classes=self._entrance.classes(metrics),
        )

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

    async def wait_ended(self) -> None:
        """Wait until the step loop has ended, by a bug or with its process; nothing is computed any more."""
        await self._ended.wait()

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
        refuse = self._entrance.refuse
        trouble = self._steps.trouble(time.monotonic())
        if self._draining or trouble is not None:
            message = "the engine is draining" if trouble is None else trouble
            return refuse(RejectReason.DRAINING, Rejected(StatusCode.UNAVAILABLE, message))
        invalid = validate(request, self._bounds)
        if invalid is not None:
            return refuse(RejectReason.INVALID, invalid)
        if request.request_id in self._entrance or request.request_id in self._streams:
            message = f"request_id {request.request_id} is in flight already"
            return refuse(RejectReason.INVALID, Rejected(StatusCode.ALREADY_EXISTS, message))
        return self._entrance.refuse_if_full(request, kind)

    def _enter(self, request: Request, entering: Entering) -> TokenStream | Rejected:
        """Make the request known to the step loop and to the streams; nothing awaits in here."""
        seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        if not self._steps.send(Submit(request, seed)):
            rejected = Rejected(StatusCode.UNAVAILABLE, "the engine has stopped")
            return self._entrance.refuse(RejectReason.DRAINING, rejected)
        self._entrance.sent(request, entering.kind)
        stream = TokenStream(request, self._tokenizer, self.abort)
        self._streams.add(stream)
        if entering.ended is not None:
            self._steps.send(Abort(request.request_id, entering.ended))
        return stream

    def _num_in_flight(self) -> int:
        return len(self._streams) + len(self._entrance)

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
