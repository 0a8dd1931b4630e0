"""How a refusal becomes a gRPC status: one name for one code, and the retry hint in the trailing metadata."""

from typing import NoReturn

import grpc
import grpc.aio

from headway_engine.core.request import Rejected, StatusCode

RETRY_AFTER_KEY = "retry-after-ms"

_CODES = {code: grpc.StatusCode[code.value] for code in StatusCode}


def grpc_code(code: StatusCode) -> grpc.StatusCode:
    """The gRPC status of the same name."""
    return _CODES[code]


def wire_number(code: StatusCode) -> int:
    """The `google.rpc.Code` number, for `MuxError`."""
    number: int = grpc_code(code).value[0]
    return number


async def abort(context: "grpc.aio.ServicerContext[object, object]", rejected: Rejected) -> NoReturn:
    """End the call with the refusal's status; raises, as gRPC wants it."""
    metadata = ((RETRY_AFTER_KEY, str(rejected.retry_after_ms)),) if rejected.retry_after_ms else ()
    await context.abort(grpc_code(rejected.code), rejected.message, metadata)
    raise AssertionError("context.abort returned")
