"""A message that cannot be parsed is the client's mistake: INVALID_ARGUMENT, where gRPC would say INTERNAL.

gRPC answers before any handler sees such a call. So the deserializers of our own methods return an `Unreadable` instead of
raising, and the handlers are wrapped to refuse it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

_OURS = "/headway."

if TYPE_CHECKING:
    # gRPC's handlers are generic over messages that only the generated code knows; at run time they are not generic.
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a message that cannot be parsed."""

    size: int


class Readable(grpc.aio.ServerInterceptor):
    """Refuses unreadable messages of our own services."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, wrapped; see the module."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if not method.startswith(_OURS) or handler is None or handler.request_deserializer is None:
            return handler
        parse, write = handler.request_deserializer, handler.response_serializer

        def lenient(data: bytes) -> object:
            try:
                return parse(data)
            except DecodeError:
                return Unreadable(len(data))

        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, method), lenient, write)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_guarded(handler.unary_stream, method), lenient, write)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(_guarded_stream(handler.stream_stream, method), lenient, write)
        return handler


def _guarded(inner: Callable[..., Any], method: str) -> Callable[..., Any]:
    """A handler of one message. Ours are coroutines, those that stream as well: they write through the context."""

    async def answer(request: object, context: "Context") -> object:
        if isinstance(request, Unreadable):
            await _refuse(request, context, method)
        return await inner(request, context)

    return answer


def _guarded_stream(inner: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def answer(requests: AsyncIterator[object], context: "Context") -> None:
        async def readable() -> AsyncIterator[object]:
            async for request in requests:
                if isinstance(request, Unreadable):
                    raise _UnreadableError(request)
                yield request

        # The handler may read in one task and write in another; the call is ended by neither of them.
        try:
            await inner(readable(), context)
        except _UnreadableError as error:
            await _refuse(error.message, context, method)

    return answer


class _UnreadableError(Exception):
    def __init__(self, message: Unreadable) -> None:
        super().__init__(message)
        self.message = message


async def _refuse(message: Unreadable, context: "Context", method: str) -> None:
    reason = f"a message of {message.size} bytes cannot be parsed as what {method} takes"
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
