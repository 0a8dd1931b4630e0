"""A thin client of one engine: connect, stream an answer, many answers on one connection, errors that can be read.

`EngineClient.generate` is one call per request. `MuxClient` carries many requests on one `GenerateMux` stream: one frame
per engine step reaches all of them, which costs a fraction of the messages. Both yield the same `Answer*` messages and
raise the same `EngineError`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from headway_rpc import engine_pb2 as pb
from headway_rpc.engine_pb2_grpc import EngineStub

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import EngineAsyncStub

RETRY_AFTER_KEY = "retry-after-ms"
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_CHANNEL_OPTIONS = (
    # The answer may be long, the engine's own limit is on what it receives.
    ("grpc.max_receive_message_length", 16 << 20),
    # A dead engine is noticed within 20 s even when it owes no data.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # An engine that was away for long is found again soon; by default that may take two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Each client has connections of its own: a load test must not share one by accident.
    ("grpc.use_local_subchannel_pool", 1),
)

Message = pb.GenerateChunk | pb.GenerateComplete


class EngineError(Exception):
    """A call that failed; `str()` is one sentence for a person."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(code, message, retry_after_ms)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        hint = f" (retry after {self.retry_after_ms} ms)" if self.retry_after_ms else ""
        return f"{self.code.name}: {self.message}{hint}"


def readable(error: grpc.aio.AioRpcError) -> EngineError:
    """What gRPC raised, without its dump."""
    retry_after_ms = 0
    for key, value in error.trailing_metadata() or ():
        if key == RETRY_AFTER_KEY:
            retry_after_ms = int(value)
    return EngineError(error.code(), error.details() or "no details", retry_after_ms)


def open_channel(address: str) -> grpc.aio.Channel:
    """A plaintext channel to `host:port`."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)


class EngineClient:
    """One engine, or one Service, at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = open_channel(address)
        self._stub = EngineStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls on it are cancelled."""
        await self._channel.close()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for the connection.

        Raises:
            EngineError: the first attempt to connect failed, or took too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                state = self._channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise EngineError(grpc.StatusCode.UNAVAILABLE, f"nothing answers at {self.address}")
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError:
            message = f"nothing answers at {self.address} within {timeout_s:g} s"
            raise EngineError(grpc.StatusCode.UNAVAILABLE, message) from None

    async def model_info(self, timeout_s: float = 10.0) -> pb.ModelInfo:
        """The served model."""
        try:
            return await self._stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise readable(error) from None

    async def loads(self, timeout_s: float = 10.0) -> pb.Loads:
        """The engine's gauges."""
        try:
            return await self._stub.GetLoads(pb.GetLoadsRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise readable(error) from None

    async def give_back(self, request_ids: Sequence[str], most: int, timeout_s: float = 10.0) -> None:
        """Have at most so many of these batch requests end that have not begun."""
        try:
            await self._stub.GiveBack(pb.GiveBackRequest(request_ids=request_ids, most=most), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise readable(error) from None

    async def generate(self, request: pb.GenerateRequest, timeout_s: float | None = None) -> AsyncGenerator[Message]:
        """Chunks, then the completion. Closing the iterator cancels the request."""
        call = self._stub.Generate(request, timeout=timeout_s)
        try:
            async for response in call:
                yield response.chunk if response.HasField("chunk") else response.complete
        except grpc.aio.AioRpcError as error:
            raise readable(error) from None
        finally:
            call.cancel()

    def mux(self) -> "MuxClient":
        """Many requests on one stream."""
        return MuxClient(self._stub)


class MuxClient:
    """One `GenerateMux` call. Use it as a context manager; requests must have ids of their own."""

    def __init__(self, stub: "EngineAsyncStub") -> None:
        self._stub = stub
        self._answers: dict[str, asyncio.Queue[Message | EngineError]] = {}
        self._ended: EngineError | None = None
        self._write_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._call = self._stub.GenerateMux()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        await self._reader

    async def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[Message]:
        """Chunks, then the completion. Closing the iterator early aborts the request."""
        request_id = request.request_id
        if not request_id or request_id in self._answers:
            raise ValueError(f"a request needs an id that is not in flight, got {request_id!r}")
        answers = self._answers[request_id] = asyncio.Queue[Message | EngineError]()
        complete = False
        try:
            await self._send(pb.MuxRequest(generate=request))
            while not complete:
                answer = await answers.get()
                if isinstance(answer, EngineError):
                    complete = True
                    raise answer
                complete = isinstance(answer, pb.GenerateComplete)
                yield answer
        finally:
            del self._answers[request_id]
            if not complete and self._ended is None:
                await self._send(pb.MuxRequest(abort=request_id))

    async def _send(self, command: pb.MuxRequest) -> None:
        if self._ended is not None:
            raise self._ended
        try:
            async with self._write_lock:
                await self._call.write(command)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader meets the same end and knows its reason.
            await asyncio.shield(self._reader)
            raise self._ended or EngineError(grpc.StatusCode.UNAVAILABLE, "the stream has ended") from None

    async def _read(self) -> None:
        try:
            async for batch in self._call:
                for response in batch.responses:
                    self._deliver(response)
            ended = EngineError(grpc.StatusCode.UNAVAILABLE, "the engine ended the stream; nothing more was started")
        except grpc.aio.AioRpcError as error:
            ended = readable(error)
        except asyncio.CancelledError:
            ended = EngineError(grpc.StatusCode.CANCELLED, "the client closed the stream")
        self._ended = ended
        for answers in self._answers.values():
            answers.put_nowait(ended)

    def _deliver(self, response: pb.MuxResponse) -> None:
        answers = self._answers.get(response.request_id)
        if answers is None:
            return
        match response.WhichOneof("response"):
            case "chunk":
                answers.put_nowait(response.chunk)
            case "complete":
                answers.put_nowait(response.complete)
            case "error":
                code = _CODES_BY_NUMBER.get(response.error.code, grpc.StatusCode.UNKNOWN)
                answers.put_nowait(EngineError(code, response.error.message, response.error.retry_after_ms))
            case _:
                pass
