"""The front's end of the step process: starts it, sends commands, hands what it publishes to the streams.

When the process dies, by a kill or for want of memory, every stream ends with ERROR and `trouble` says how it ended, so that
the liveness probe has the whole engine restarted. So does silence, counted in ticks of this event loop: while the front itself
sleeps (a stopped process, a suspended machine) nobody listens, and what was said meanwhile is read before the next tick.
"""

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from itertools import count
from typing import Self

from headway_engine.core.constraint import ConstraintError, ConstraintSpec
from headway_engine.core.events import StepEvent
from headway_engine.core.limits import RuntimeConfigState
from headway_engine.core.request import Rejected, RequestId, StatusCode
from headway_engine.model.tokenizer import ModelTokenizer
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.loaded import ServedModel
from headway_engine.runtime.loop import STUCK_AFTER_S, EventSink, LoopState, OfRequests
from headway_engine.runtime.step_wire import (
    LENGTH,
    Answer,
    ChangeLimits,
    Forget,
    Frame,
    FromSteps,
    Load,
    LoadModel,
    NotLoaded,
    Prepare,
    Ready,
    Stop,
    ToSteps,
    packed,
)
from headway_engine.runtime.steps import LimitsChange

_MODULE = "headway_engine.runtime.step_process"
TICK_S = 1.0


class RemoteSteps:
    """Implements `Steps` with a process. Make it with `start`, then `opened`."""

    def __init__(self, process: "subprocess.Popen[bytes]", channel: "_Channel", ready: Ready) -> None:
        self._process = process
        self._channel = channel
        tokenizer = ModelTokenizer.of(ready.tokenizer, ready.eos_token_ids, ready.chat_template)
        self.served = ServedModel(ready.model_info, tokenizer, ready.capacity_tokens)
        self.state: LoopState = ready.state
        self._trouble = ""
        self._silence = Silence()
        self._ended = False
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EngineConfig, load: LoadModel | None) -> Self:
        """Start the process and wait until the model is loaded.

        Raises:
            ModelLoadError: the model cannot be served.
            ValueError: a limit does not fit the model.
        """
        process, channel = await _started()
        try:
            channel.send(Load(config, load))
            return cls(process, channel, await _ready(channel, process, config))
        except BaseException:
            channel.close()
            _end(process)
            raise

    def opened(self, sink: EventSink) -> Self:
        """Begin to hand what the process publishes to `sink`."""
        self._reading = asyncio.create_task(self._read(sink))
        self._listening = asyncio.create_task(self._silence.count())
        return self

    def send(self, command: OfRequests) -> bool:
        """See `Steps`."""
        return self._send(command)

    async def update_limits(self, change: LimitsChange) -> RuntimeConfigState | Rejected:
        """See `Steps`."""
        number = next(self._numbers)
        answer = await self._ask(number, ChangeLimits(number, change))
        if isinstance(answer, (RuntimeConfigState, Rejected)):
            return answer
        return Rejected(StatusCode.UNAVAILABLE, "the engine has stopped")

    async def prepare(self, request_id: RequestId, spec: ConstraintSpec) -> None:
        """See `Steps`."""
        number = next(self._numbers)
        try:
            answer = await self._ask(number, Prepare(number, request_id, spec))
        except asyncio.CancelledError:
            self._send(Forget(request_id))
            raise
        if isinstance(answer, ConstraintError):
            raise answer

    def trouble(self, now: float) -> str | None:  # noqa: ARG002  (this clock also runs while the process does not)
        """See `Steps`."""
        if self._trouble:
            return self._trouble
        if self._silence.seconds > STUCK_AFTER_S:
            return f"the step process has said nothing for {self._silence.seconds:.0f} s"
        return None

    async def stop(self) -> None:
        """See `Steps`."""
        if self._send(Stop()) and self._reading is not None:
            # A step in flight is waited for; one that will not come back is not.
            await asyncio.wait([self._reading], timeout=STUCK_AFTER_S)
        _end(self._process)
        if self._reading is not None:
            await self._reading
        if self._listening is not None:
            self._listening.cancel()
        self._channel.close()

    def _send(self, message: ToSteps) -> bool:
        if not self._ended:
            self._channel.send(message)
        return not self._ended

    async def _ask(self, number: int, message: ToSteps) -> Answer:
        if not self._send(message):
            return None
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            return await future
        finally:
            del self._asked[number]

    async def _read(self, sink: EventSink) -> None:
        """Until the process ends."""
        while isinstance(frame := await self._channel.receive(), Frame):
            self._silence.seconds = 0.0
            self.state = frame.state
            self._trouble = frame.trouble
            if frame.events:
                sink.publish([StepEvent(*row) for row in frame.events])
            for number, answer in frame.answers:
                self._settle(number, answer)
            if frame.failure:
                sink.fail(frame.failure)
        self._ended = True
        self._trouble = f"the step process {await _how_it_ended(self._process)}"
        for number in list(self._asked):
            self._settle(number, None)
        sink.fail(self._trouble)

    def _settle(self, number: int, answer: Answer) -> None:
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(answer)


class Silence:
    """Seconds since something was heard, as far as this event loop was awake."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def count(self) -> None:
        """A tick that comes late, however late, is one tick."""
        while True:
            await asyncio.sleep(TICK_S)
            self.seconds += TICK_S


class _Channel:
    """Messages to and from the process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: ToSteps) -> None:
        """Send without waiting: the process always reads. To one that is gone: without effect."""
        self._writer.write(packed(message))

    async def receive(self) -> FromSteps | None:
        """The next message; None when the process is gone."""
        try:
            header = await self._reader.readexactly(LENGTH.size)
            body = await self._reader.readexactly(LENGTH.unpack(header)[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: FromSteps = pickle.loads(body)  # noqa: S301 - of our own child process
        return message

    def close(self) -> None:
        """The process ends by this, if it still runs."""
        self._writer.close()


async def _started() -> "tuple[subprocess.Popen[bytes], _Channel]":
    """A process that has not been told anything; it ends when the channel is closed."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            arguments = (sys.executable, "-m", _MODULE, str(theirs.fileno()))
            # Not asyncio's: cancelled at the wrong moment it waits for ever for the process that it has just killed.
            process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], env=_environment())  # noqa: ASYNC220, S603 - some ms
    except BaseException:
        ours.close()
        raise
    try:
        return process, _Channel(*await asyncio.open_unix_connection(sock=ours))
    except BaseException:
        ours.close()
        _end(process)
        raise


async def _ready(channel: _Channel, process: "subprocess.Popen[bytes]", config: EngineConfig) -> Ready:
    match await channel.receive():
        case Ready() as ready:
            return ready
        case NotLoaded(error):
            raise error
        case _:
            raise ModelLoadError(f"{config.model}: the process that loads it {await _how_it_ended(process)}")


def _environment() -> dict[str, str]:
    """The step process must find what this process can import, wherever from.

    Torch's CPU threads meet many times in a step. By default each spins until the others come; where they share their CPUs
    with anybody else, the front for one, a step of 60 ms then takes over a second.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    return {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": paths}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it if it still runs, and take its exit code: none is left as a zombie."""
    process.kill()
    process.wait()


async def _how_it_ended(process: "subprocess.Popen[bytes]") -> str:
    code = await asyncio.to_thread(process.wait)
    if code >= 0:
        return f"ended with code {code}"
    hint = "; out of memory?" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"
