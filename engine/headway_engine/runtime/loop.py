"""The step loop: one thread that owns the scheduler and the executor.

    commands -> expire -> batch = schedule -> results = executor.run -> events = commit -> publish

Other threads only send commands. They are applied between two steps, in the order in which they were sent; so a request
can be aborted at any moment, and a changed limit is effective from the next step on. When there is nothing to compute the
thread sleeps on a condition until a command comes, a deadline passes, a wait for company is over or a lease ends.

After each step the loop publishes `LoopState`, a frozen view of its figures, by assigning one attribute: readers in other
threads need no lock and never see half a step.

An exception of the executor ends the requests of that batch. A device that is lost, and an exception anywhere else, which is
a bug, end every request with ERROR and the thread; `health` fails, so that the process is restarted.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from headway_engine.core.batch import Batch, DeviceLostError, Executor, StepFailure, StepResult
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import LimitsPatch, LimitsState, RuntimeConfigState
from headway_engine.core.metrics import MetricsSnapshot
from headway_engine.core.request import FinishReason, Rejected, Request, RequestId, StatusCode
from headway_engine.core.scheduler import Scheduler

logger = logging.getLogger(__name__)

# A step takes milliseconds to some seconds. One that takes this long will not come back.
STUCK_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Submit:
    """Queue a request."""

    request: Request
    seed: int


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request; unknown ids are ignored."""

    request_id: RequestId
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class GiveBack:
    """End at most so many of these batch requests that have not begun; unknown ids are ignored."""

    request_ids: frozenset[RequestId]
    most: int


@dataclass(frozen=True, slots=True)
class UpdateLimits:
    """Change the live limits; `reply` is called in the step thread, exactly once."""

    patch: LimitsPatch
    lease_s: int
    expected_revision: int | None
    reply: Callable[[RuntimeConfigState | Rejected], None]


OfRequests = Submit | Abort | GiveBack  # what the front says of requests
Command = OfRequests | UpdateLimits


@dataclass(frozen=True, slots=True)
class LoopState:
    """Figures of the step thread at a step boundary; `requests_taken` counts the `Submit`s that they include."""

    num_running: int
    num_waiting: int
    num_waiting_batch: int  # of those, requests of the batch class
    open_slots: int
    kv_tokens: int
    backlog_tokens: int
    batch_backlog_tokens: int  # of those, of the batch class
    limits: LimitsState
    metrics: MetricsSnapshot
    requests_taken: int


class EventSink(Protocol):
    """Where the loop puts what happened; every method returns at once."""

    def publish(self, events: Sequence[StepEvent]) -> None:
        """Take the events of one step; `StepLoop.state` knows of them already."""

    def changed(self) -> None:
        """`StepLoop.state` differs in more than a step's progress."""

    def fail(self, message: str) -> None:
        """Every request ends with ERROR: the loop ends by a bug."""


class StepLoop:
    """Runs steps while there is something to compute."""

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        limits: LimitsState,
        sink: EventSink,
    ) -> None:
        self._executor = executor
        self.scheduler = scheduler
        self._limits = limits
        self._sink = sink
        self._wake = threading.Condition()
        self._commands: list[Command] = []
        self._taken: list[Command] = []  # by the step thread, being applied
        self._stopping = False
        self._step_started_s: float | None = None
        self._failure = ""
        self._begun = threading.Event()
        self._requests_taken = 0
        self._thread = threading.Thread(target=self._run, name="headway-step", daemon=True)
        self.state = self._observe(None)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_begun(self) -> None:
        """Wait until the executor is ready for batches, or the thread has failed."""
        self._begun.wait()

    def send(self, *commands: Command) -> bool:
        """Have commands applied between the same two steps; False when the loop has ended and never will."""
        with self._wake:
            if not self._failure and not self._stopping:
                self._commands.extend(commands)
                self._wake.notify()
                return True
        # Nobody will take them: a caller that waits must not wait for ever.
        for command in commands:
            _refuse(command)
        return False

    def stop(self) -> None:
        """End all requests with ABORT and the thread after the step in flight."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def trouble(self, now: float) -> str | None:
        """What is wrong with the loop, or None while it makes progress."""
        started = self._step_started_s
        if self._failure:
            return f"the step loop has ended: {self._failure}"
        if self._thread.ident is not None and not self._thread.is_alive():
            return "the step loop has ended"
        if started is not None and now - started > STUCK_AFTER_S:
            return f"a step has been running for {now - started:.0f} s"
        return None

    def _run(self) -> None:
        try:
            self._executor.begin()
            self._begun.set()
            while not self._stopping:
                self._taken = self._next_commands()
                now = time.monotonic()
                events = self._apply(self._taken, now)
                self._taken = []
                events += self.scheduler.expire(now)
                if events:  # an abort or a deadline is not held up by the step that follows
                    self.state = self._observe(None)
                    self._sink.publish(events)
                self._step(now)
            self._end_all()
        except Exception as error:
            logger.exception("the step loop failed")
            self._failure = _first_line(error)
            for command in self._close():
                _refuse(command)
            self._sink.fail(f"the step loop has ended: {self._failure}")
        finally:
            self._begun.set()

    def _next_commands(self) -> list[Command]:
        """The commands sent since the last step; waits while there is nothing else to do."""
        with self._wake:
            while not self._commands and not self._stopping:
                now = time.monotonic()
                due = self._next_due(now)
                if due is not None and due <= now:
                    break
                self._wake.wait(None if due is None else due - now)
            commands, self._commands = self._commands, []
            return commands

    def _next_due(self, now: float) -> float | None:
        due = [self.scheduler.next_due(now), self._limits.lease_ends_s]
        return min((moment for moment in due if moment is not None), default=None)

    def _apply(self, commands: list[Command], now: float) -> list[StepEvent]:
        events = []
        self._set_limits(self._limits.expire(now))
        for command in commands:
            match command:
                case Submit(request, seed):
                    self._requests_taken += 1
                    self.scheduler.add(request, seed)
                case Abort(request_id, reason):
                    event = self.scheduler.abort(request_id, reason, now)
                    if event is not None:
                        events.append(event)
                case GiveBack(request_ids, most):
                    events += self.scheduler.give_back(request_ids, most, now)
                case UpdateLimits():
                    self._update_limits(command, now)
        return events

    def _update_limits(self, command: UpdateLimits, now: float) -> None:
        result = self._limits.update(command.patch, command.lease_s, command.expected_revision, now)
        if isinstance(result, LimitsState):
            self._set_limits(result)
            command.reply(result.view(now))
        else:
            command.reply(result)

    def _set_limits(self, limits: LimitsState) -> None:
        if limits is not self._limits:
            self._limits = limits
            self.scheduler.limits = limits.effective
            self._show(replace(self.state, limits=limits))

    def _step(self, now: float) -> None:
        scheduler = self.scheduler
        batch = scheduler.schedule(now)
        if batch is None:
            self._show(self._observe(None))
            return
        self._show(self._observe(self.state.metrics))
        self._step_started_s = now
        try:
            results = self._executor.run(batch)
        except DeviceLostError:
            raise
        except Exception as error:  # out of memory or a device error must not take the other requests along
            logger.exception("a step of %d requests failed", len(batch.chunks))
            events = scheduler.fail(batch, _first_line(error), time.monotonic())
        else:
            _report_failures(batch, results)
            events = scheduler.commit(batch, results, time.monotonic())
        scheduler.metrics.step.record((time.monotonic() - now) * 1000)
        self._step_started_s = None
        self.state = self._observe(None)
        self._sink.publish(events)

    def _close(self) -> list[Command]:
        """Take no more commands; returns those that were not applied."""
        with self._wake:
            self._stopping = True
            commands, self._commands = self._taken + self._commands, []
            return commands

    def _end_all(self) -> None:
        """End everything in flight with ABORT and answer everything that waits for the loop."""
        now = time.monotonic()
        for command in self._close():
            if isinstance(command, Submit):
                self.scheduler.add(command.request, command.seed)
            else:
                _refuse(command)
        sequences = (*self.scheduler.running(), *self.scheduler.waiting())
        ended = [self.scheduler.abort(s.request.request_id, FinishReason.ABORT, now) for s in sequences]
        self.state = self._observe(None)
        self._sink.publish([event for event in ended if event is not None])

    def _show(self, state: LoopState) -> None:
        """Publish figures without events. While a step of steady decodes runs, nothing is new that could not wait for its end."""
        before, self.state = self.state, state
        if _admission(before) != _admission(state):
            self._sink.changed()

    def _observe(self, metrics: MetricsSnapshot | None) -> LoopState:
        scheduler = self.scheduler
        return LoopState(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_waiting_batch=scheduler.num_waiting_batch,
            open_slots=scheduler.open_slots,
            kv_tokens=scheduler.kv_tokens,
            backlog_tokens=scheduler.backlog.tokens,
            batch_backlog_tokens=scheduler.backlog.batch,
            limits=self._limits,
            metrics=metrics or scheduler.metrics.snapshot(),
            requests_taken=self._requests_taken,
        )


def _admission(state: LoopState) -> tuple[object, ...]:
    """The figures that decide whether a newcomer is let in."""
    waiting_batch, taken = state.num_waiting_batch, state.requests_taken
    return state.num_running, waiting_batch, state.open_slots, state.backlog_tokens, taken, state.limits


def _report_failures(batch: Batch, results: Sequence[StepResult]) -> None:
    """Log what a step looked like in which answers went wrong: it cannot be had again from the requests alone."""
    if not any(isinstance(result, StepFailure) for result in results):
        return
    sampled = [chunk for chunk in batch.chunks if chunk.sample]
    failed = [
        {
            "row": row,
            "context": chunk.start + len(chunk.token_ids),
            "prompt": len(chunk.token_ids),
            "why": result.message,
        }
        for row, (chunk, result) in enumerate(zip(sampled, results, strict=True))
        if isinstance(result, StepFailure)
    ]
    lengths = [len(chunk.token_ids) for chunk in batch.chunks]
    logger.error(
        "%d of %d answers failed in one step of %d tokens", len(failed), len(sampled), batch.num_tokens,
        extra={"chunks": len(lengths), "prompts": [n for n in lengths if n > 1], "failed": failed[:16]},
    )  # fmt: skip


def _refuse(command: Command) -> None:
    if isinstance(command, UpdateLimits):
        command.reply(Rejected(StatusCode.UNAVAILABLE, "the engine has stopped"))


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
