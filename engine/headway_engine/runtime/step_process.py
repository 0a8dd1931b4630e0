"""The process that loads the model and computes the steps; `remote_steps.py` starts it and is the other end of its socket.

    python -m headway_engine.runtime.step_process FD

Three threads share it beside the step loop's own: this one takes messages, one loads the model, one sends. The sender takes
whatever is there when it gets to it, so a front that is slow makes frames longer and never a step later.

The process ends when its socket does, at any time: when the front is gone, nobody needs it. Signals of the terminal are the
front's business.
"""

import gc
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import BinaryIO

from headway_engine import logs
from headway_engine.core.constraint import ConstraintError
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import RuntimeConfigState
from headway_engine.core.request import Rejected
from headway_engine.runtime.config import ModelLoadError
from headway_engine.runtime.grammar import GrammarCompiler
from headway_engine.runtime.loaded import LoadedModel
from headway_engine.runtime.loop import Abort, EventSink, GiveBack, StepLoop, Submit, UpdateLimits
from headway_engine.runtime.step_wire import (
    HEARTBEAT_S,
    LENGTH,
    Answer,
    ChangeLimits,
    EventRow,
    Forget,
    Frame,
    Load,
    NotLoaded,
    Prepare,
    Ready,
    Stop,
    ToSteps,
    packed,
)
from headway_engine.runtime.steps import new_loop, with_constraint

log = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Serve one front over the socket `fd`; does not return."""
    logs.configure()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as connection, connection.makefile("rb") as messages:
        process = _StepProcess(connection)
        while True:
            process.take(_next(messages))


def _next(messages: BinaryIO) -> ToSteps:
    """The next message; ends the process when the front is gone."""
    try:
        header = messages.read(LENGTH.size)
        body = messages.read(LENGTH.unpack(header)[0]) if len(header) == LENGTH.size else b""
    except ConnectionResetError:  # it left frames of ours unread
        body = b""
    if not body:
        os._exit(0)  # whatever the other threads are at, nobody waits for it
    message: ToSteps = pickle.loads(body)  # noqa: S301 - of our own parent process
    return message


class _StepProcess:
    """The front's messages, turned into calls of the step loop."""

    def __init__(self, connection: socket.socket) -> None:
        self._outbox = _Outbox(connection)
        self._model: _Model | None = None

    def take(self, message: ToSteps) -> None:
        """Do what one message says."""
        match message:
            case Load():
                threading.Thread(target=self._load, args=(message,), name="headway-load", daemon=True).start()
            case Stop():
                self._stop()
            case _ if self._model is not None:
                self._command(message, self._model)
            case _:
                raise RuntimeError(f"{message} came before the model was loaded")

    def _command(self, message: ToSteps, model: "_Model") -> None:
        match message:
            case Submit() | Abort() | GiveBack():
                # A loop that has ended has told so, or is about to.
                model.loop.send(with_constraint(message, model.grammars))
            case ChangeLimits(number, change):
                reply = self._outbox.replier(number)
                model.loop.send(UpdateLimits(change.patch, change.lease_s, change.expected_revision, reply))
            case Prepare(number, request_id, spec):
                compiled = model.grammars.prepare(request_id, spec)
                compiled.add_done_callback(self._outbox.compile_replier(number))
            case Forget(request_id):
                model.grammars.forget(request_id)

    def _load(self, message: Load) -> None:
        try:
            loaded = _loaded(message)
        except (ModelLoadError, ValueError) as error:
            self._outbox.refuse(error)
            return
        except Exception as error:
            log.exception("this is a bug in the engine")
            self._outbox.refuse(RuntimeError(f"{type(error).__name__}: {error}"))
            return
        loop = new_loop(message.config, loaded, self._outbox)
        loop.start()
        loop.wait_begun()
        if (trouble := loop.trouble(time.monotonic())) is not None:
            self._outbox.refuse(ModelLoadError(f"{message.config.model}: {trouble}"))
            return
        # What the model brought lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        tokenizer = loaded.tokenizer
        self._model = _Model(loop, GrammarCompiler(tokenizer, loaded.model_info.vocab_size))
        ready = Ready(
            model_info=loaded.model_info,
            tokenizer=tokenizer.serialized(),
            eos_token_ids=tokenizer.eos_token_ids,
            chat_template=tokenizer.chat_template,
            capacity_tokens=loop.scheduler.pool.capacity_tokens,
            state=loop.state,
        )
        self._outbox.open(loop, ready)

    def _stop(self) -> None:
        if self._model is not None:
            self._model.loop.stop()
        self._outbox.close()
        logging.shutdown()
        # Not sys.exit: torch's own threads would hold the process.
        os._exit(0)


@dataclass(frozen=True, slots=True)
class _Model:
    """What commands go to, once it is loaded."""

    loop: StepLoop
    grammars: GrammarCompiler


def _loaded(message: Load) -> LoadedModel:
    if message.load is not None:
        return message.load(message.config)
    # Here because it brings torch.
    from headway_engine.runtime.loading import load  # noqa: PLC0415

    return load(message.config)


class _Outbox(EventSink):
    """What the front has not been sent yet, and the thread that sends it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._news = threading.Condition()
        self._is_new = self._closing = False
        self._events: list[EventRow] = []
        self._answers: list[tuple[int, Answer]] = []
        self._failure = ""
        self._thread: threading.Thread | None = None

    def open(self, loop: StepLoop, ready: Ready) -> None:
        """Say that the model is loaded; then send frames."""
        with self._news:  # a front that stops us at once is owed what it asked for before: `close` waits for the thread
            self._connection.sendall(packed(ready))
            self._thread = threading.Thread(target=self._send, args=(loop,), name="headway-send", daemon=True)
            self._thread.start()

    def refuse(self, error: Exception) -> None:
        """Say that the model cannot be served."""
        self._connection.sendall(packed(NotLoaded(error)))

    def publish(self, events: Sequence[StepEvent]) -> None:
        """See `EventSink`."""
        rows = [event[:] for event in events]  # plain tuples, which are pickled without a class
        with self._news:
            self._events += rows
            self._wake()

    def changed(self) -> None:
        """See `EventSink`."""
        with self._news:
            self._wake()

    def fail(self, message: str) -> None:
        """See `EventSink`."""
        with self._news:
            self._failure = message
            self._wake()

    def replier(self, number: int) -> Callable[[RuntimeConfigState | Rejected], None]:
        """What answers message `number`."""
        return lambda answer: self._answer(number, answer)

    def compile_replier(self, number: int) -> "Callable[[Future[None]], None]":
        """The same for a `Prepare`."""

        def reply(compiled: "Future[None]") -> None:
            error = compiled.exception()
            if error is not None and not isinstance(error, ConstraintError):
                log.error("compiling a form failed", exc_info=error)
                error = ConstraintError(f"the form could not be compiled: {error!r}")
            self._answer(number, error)

        return reply

    def close(self) -> None:
        """Send what is there, and end the thread."""
        with self._news:
            self._closing = True
            self._wake()
        if self._thread is not None:
            self._thread.join()

    def _answer(self, number: int, answer: Answer) -> None:
        with self._news:
            self._answers.append((number, answer))
            self._wake()

    def _wake(self) -> None:
        self._is_new = True
        self._news.notify()

    def _send(self, loop: StepLoop) -> None:
        closing = False
        while not closing:
            with self._news:
                self._news.wait_for(lambda: self._is_new, HEARTBEAT_S)
                self._is_new, closing = False, self._closing
                events, self._events = self._events, []
                answers, self._answers = self._answers, []
                failure, self._failure = self._failure, ""
            # Read after the events were taken: the figures include them.
            frame = Frame(loop.state, events, answers, loop.trouble(time.monotonic()) or "", failure)
            try:
                self._connection.sendall(packed(frame))
            except OSError:
                os._exit(0)  # the front is gone


if __name__ == "__main__":
    main(int(sys.argv[1]))
