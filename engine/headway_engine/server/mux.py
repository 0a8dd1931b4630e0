"""One `GenerateMux` call: many requests on one stream, one frame per engine step.

Each admitted request has a pump: a task that moves its items into the outbox. The step thread publishes the items of
one step together, so all pumps run in one turn of the event loop and the writer, which wakes in the next turn, finds
the whole step and sends it as one `StepBatch`. While the client does not read, the write waits and the outbox keeps one
entry per request whose tokens grow: memory is bounded by the answers in flight, and no step ever waits for a reader.

Reading stops while the outbox holds `MAX_OUTBOX` entries or `MAX_SUBMITTING` requests are being admitted, so a client
that floods and never reads is held by its own flow control. When the client has sent its last command, the call ends
after the last answer; when the client goes away, every stream is cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress

from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import Finished, Rejected, StatusCode
from headway_engine.server import convert, status
from headway_engine.server.intake import Intake
from headway_engine.server.ports import StreamItemView
from headway_rpc import pb

MAX_OUTBOX = 4096
MAX_SUBMITTING = 256


class _Entry:
    """What one request has for the client since the last frame."""

    __slots__ = ("error", "finished", "logprobs", "text", "token_ids")

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.text: list[str] = []
        self.logprobs: list[TokenLogprobs] = []
        self.finished: Finished | None = None
        self.error: Rejected | None = None


class MuxSession:
    """The state of one call."""

    def __init__(self, intake: Intake, abort: Callable[[str], bool]) -> None:
        self._intake = intake
        self._abort = abort
        self._outbox: dict[str, _Entry] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._submitting = asyncio.Semaphore(MAX_SUBMITTING)
        self._ends_when_idle = False

    def end_when_idle(self) -> None:
        """End the call once no answer is in flight, whether or not the client has more to send."""
        self._ends_when_idle = True
        self._work.set()

    async def frames(self, commands: AsyncIterator[pb.MuxRequest]) -> AsyncGenerator[pb.StepBatch]:
        """Frames to send, until the client has finished and every answer is complete. Close it when done."""
        reader = asyncio.create_task(self._read(commands))
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                if self._outbox:
                    yield self._take_frame()
                if reader.done():
                    reader.result()
                if self._ends_when_idle and not self._pumps and not self._outbox:
                    return
        finally:
            await _cancel_all([reader, *self._pumps.values()])

    def _take_frame(self) -> pb.StepBatch:
        ready, self._outbox = self._outbox, {}
        self._room.set()
        return pb.StepBatch(responses=[response for id_, entry in ready.items() for response in _responses(id_, entry)])

    async def _read(self, commands: AsyncIterator[pb.MuxRequest]) -> None:
        try:
            async for command in commands:
                await self._room.wait()
                match command.WhichOneof("command"):
                    case "generate":
                        await self._begin(command.generate)
                    case "abort":
                        if command.abort in self._pumps:
                            self._abort(command.abort)
                    case _:
                        self._refuse(
                            "", Rejected(StatusCode.INVALID_ARGUMENT, "command is required: generate or abort")
                        )
        finally:
            self.end_when_idle()

    async def _begin(self, message: pb.GenerateRequest) -> None:
        request_id = message.request_id
        if not request_id:
            self._refuse("", Rejected(StatusCode.INVALID_ARGUMENT, "request_id is required in GenerateMux, got none"))
            return
        if request_id in self._pumps:
            # Answered under the same id it would end the first one at the client: the id is in the message only.
            self._refuse("", Rejected(StatusCode.ALREADY_EXISTS, f"request_id {request_id!r} is in flight"))
            return
        await self._submitting.acquire()
        self._pumps[request_id] = asyncio.create_task(self._pump(message))

    async def _pump(self, message: pb.GenerateRequest) -> None:
        request_id = message.request_id
        try:
            try:
                stream = await self._intake.open(message, None)
            finally:
                self._submitting.release()
            if isinstance(stream, Rejected):
                self._refuse(request_id, stream)
                return
            try:
                async for item in stream:
                    self._put(request_id, item)
            finally:
                stream.cancel()
        finally:
            del self._pumps[request_id]
            self._work.set()

    def _entry(self, request_id: str) -> _Entry:
        entry = self._outbox.get(request_id)
        if entry is None:
            entry = self._outbox[request_id] = _Entry()
            if len(self._outbox) >= MAX_OUTBOX:
                self._room.clear()
        self._work.set()
        return entry

    def _put(self, request_id: str, item: StreamItemView) -> None:
        entry = self._entry(request_id)
        entry.token_ids.extend(item.token_ids)
        entry.text.append(item.text)
        entry.logprobs.extend(item.logprobs)
        entry.finished = item.finished

    def _refuse(self, request_id: str, rejected: Rejected) -> None:
        self._entry(request_id).error = rejected


def _responses(request_id: str, entry: _Entry) -> list[pb.MuxResponse]:
    if entry.error is not None:
        error = pb.MuxError(
            code=status.wire_number(entry.error.code),
            message=entry.error.message,
            retry_after_ms=entry.error.retry_after_ms,
        )
        return [pb.MuxResponse(request_id=request_id, error=error)]
    text = "".join(entry.text)
    if entry.finished is not None:
        complete = convert.to_complete(entry.finished, text, entry.logprobs)
        return [pb.MuxResponse(request_id=request_id, complete=complete)]
    return [pb.MuxResponse(request_id=request_id, chunk=convert.to_chunk(entry.token_ids, text, entry.logprobs))]


async def _cancel_all(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
