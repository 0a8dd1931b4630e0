"""The step loop as the engine's front sees it, whether it runs in a thread beside the front or in a process of its own.

A served engine has it in a process of its own (`step_process.py`): computing steps, and turning tokens into text and
frames, then do not wait for each other's Python. `LocalSteps` is the same loop in a thread, for programs that embed an engine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from headway_engine.core.blocks import BlockPool
from headway_engine.core.constraint import ConstraintSpec
from headway_engine.core.limits import LimitsPatch, LimitsState, RuntimeConfigState
from headway_engine.core.request import Rejected, RequestId
from headway_engine.core.scheduler import Scheduler
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.grammar import GrammarCompiler
from headway_engine.runtime.loaded import LoadedModel, ServedModel
from headway_engine.runtime.loop import EventSink, LoopState, OfRequests, StepLoop, Submit, UpdateLimits


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """What `StepLoop` does with an `UpdateLimits`, without whom to tell."""

    patch: LimitsPatch
    lease_s: int
    expected_revision: int | None


class Steps(Protocol):
    """All methods belong to the event loop; none waits for a step unless it is awaited."""

    @property
    def served(self) -> ServedModel:
        """What is served."""

    @property
    def state(self) -> LoopState:
        """The newest figures."""

    def send(self, command: OfRequests) -> bool:
        """Have a command applied between two steps; False when the loop has ended and never will."""

    async def update_limits(self, change: LimitsChange) -> RuntimeConfigState | Rejected:
        """Change limits between two steps."""

    async def prepare(self, request_id: RequestId, spec: ConstraintSpec) -> None:
        """Compile the form of a request that is then sent. One that was cancelled meanwhile leaves nothing behind.

        Raises:
            ConstraintError: see `GrammarCompiler.compile_here`.
        """

    def trouble(self, now: float) -> str | None:
        """What is wrong with the loop, or None while it makes progress. Safe from any thread."""

    async def stop(self) -> None:
        """End all requests with ABORT, and the loop."""


OpenSteps = Callable[[EventSink], Steps]


def new_loop(config: EngineConfig, model: LoadedModel, sink: EventSink) -> StepLoop:
    """A step loop for a loaded model; not started."""
    executor = model.executor
    pool = BlockPool(executor.num_blocks, executor.block_size, caching=config.prefix_cache)
    limits = LimitsState(config.envelope(), config.baseline(), config.baseline())
    eos = frozenset(model.tokenizer.eos_token_ids)
    scheduler = Scheduler(pool, limits.effective, model.model_info.max_model_len, eos, model.tokens_ahead)
    return StepLoop(executor, scheduler, limits, sink)


def with_constraint(command: OfRequests, grammars: GrammarCompiler) -> OfRequests:
    """A request together with what was prepared for it."""
    if isinstance(command, Submit) and command.request.sampling.constraint is not None:
        constraint = grammars.take(command.request.request_id)
        return replace(command, request=replace(command.request, constraint=constraint))
    return command


class LocalSteps:
    """Implements `Steps` with a thread of this process."""

    def __init__(self, config: EngineConfig, model: LoadedModel, sink: EventSink) -> None:
        self._event_loop = asyncio.get_running_loop()
        self.loop = new_loop(config, model, sink)
        self.served = ServedModel(model.model_info, model.tokenizer, self.loop.scheduler.pool.capacity_tokens)
        self._grammars = GrammarCompiler(model.tokenizer, model.model_info.vocab_size)
        self.loop.start()

    @property
    def state(self) -> LoopState:
        """See `Steps`."""
        return self.loop.state

    def send(self, command: OfRequests) -> bool:
        """See `Steps`."""
        return self.loop.send(with_constraint(command, self._grammars))

    async def update_limits(self, change: LimitsChange) -> RuntimeConfigState | Rejected:
        """See `Steps`."""
        future: asyncio.Future[RuntimeConfigState | Rejected] = self._event_loop.create_future()

        def settle(result: RuntimeConfigState | Rejected) -> None:
            if not future.done():
                future.set_result(result)

        def reply(result: RuntimeConfigState | Rejected) -> None:
            self._event_loop.call_soon_threadsafe(settle, result)

        self.loop.send(UpdateLimits(change.patch, change.lease_s, change.expected_revision, reply))
        return await future

    async def prepare(self, request_id: RequestId, spec: ConstraintSpec) -> None:
        """See `Steps`."""
        try:
            await asyncio.wrap_future(self._grammars.prepare(request_id, spec))
        except asyncio.CancelledError:
            self._grammars.forget(request_id)
            raise

    def trouble(self, now: float) -> str | None:
        """See `Steps`."""
        return self.loop.trouble(now)

    async def stop(self) -> None:
        """See `Steps`."""
        await asyncio.to_thread(self.loop.stop)
        self._grammars.close()
