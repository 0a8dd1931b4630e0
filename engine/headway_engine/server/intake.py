"""The way in, shared by `Generate` and `GenerateMux`: message in, token stream or refusal out, nothing leaked.

A caller may go away at any await. While `submit` runs, nobody holds the stream yet, so submission runs in a task of its
own: when the caller is cancelled meanwhile, the stream is cancelled as soon as it exists.
"""

import asyncio
import time
import uuid

from headway_engine.core.request import Rejected
from headway_engine.server import convert
from headway_engine.server.lifecycle import NOT_LOADED, Lifecycle
from headway_engine.server.ports import TokenStreamPort
from headway_rpc import pb


class Intake:
    """Opens token streams for wire requests."""

    def __init__(self, lifecycle: Lifecycle, served_model: str) -> None:
        self._lifecycle = lifecycle
        self._served_model = served_model

    async def open(self, message: pb.GenerateRequest, timeout_s: float | None) -> TokenStreamPort | Rejected:
        """Validate and submit; the caller must `cancel()` the stream it gets, on every path."""
        engine = self._lifecycle.engine
        if engine is None:
            return NOT_LOADED
        arrival = convert.Arrival(time.monotonic(), timeout_s, uuid.uuid4().hex)
        request = convert.to_request(message, arrival, self._served_model)
        if isinstance(request, Rejected):
            return request
        submission = asyncio.ensure_future(engine.submit(request))
        try:
            return await asyncio.shield(submission)
        except asyncio.CancelledError:
            submission.add_done_callback(_cancel_result)
            raise


def _cancel_result(submission: "asyncio.Future[TokenStreamPort | Rejected]") -> None:
    if submission.cancelled() or submission.exception() is not None:
        return
    stream = submission.result()
    if not isinstance(stream, Rejected):
        stream.cancel()
