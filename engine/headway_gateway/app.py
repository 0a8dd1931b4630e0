"""The routes: a body comes in, an answer goes out, whole or as server-sent events.

The status of a streamed answer is only sent with its first text, so everything that an engine refuses still gets the right
status. What goes wrong later comes as an event with an `error`, after which the stream ends without `[DONE]`.

A client that goes away cancels its handler (`handler_cancellation`), which closes the engine's stream and so ends the
request there. Each answer waits for its own reader only: gRPC holds back what nobody reads, and an answer has at most
`max_tokens` of it.

A gateway that goes away refuses nobody. It has no state, so it serves what still arrives, and its answers close their
connections: the client's next one leads to another gateway. An answer whose head was sent before cannot say so. It leaves
its connection open, and its client a second to ask once more.
"""

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress

from aiohttp import web

from headway_gateway import api, classes, errors, translate
from headway_gateway.answers import Choice, Head, Json
from headway_gateway.api import ChatRequest, CompletionRequest
from headway_gateway.engines import Engines
from headway_gateway.errors import Failure
from headway_gateway.merge import Source, alone, first_messages, merged
from headway_gateway.metrics import Metrics
from headway_gateway.settings import Settings
from headway_rpc import pb
from headway_rpc.client import Message

log = logging.getLogger(__name__)

LINGER_S = 1.0  # from an answer to the end: a client that asks again and again does it within this time

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """The state of one process: its engines, what is in flight, and whether it is going away."""

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self._settings = settings
        self._engines = engines
        self._metrics = Metrics(engines)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._answered_s = -math.inf
        self._draining = False

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=self._settings.max_body_bytes, middlewares=[self._guard])
        app.on_response_prepare.append(self._send_away)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render_metrics)
        return app

    def begin_drain(self) -> None:
        """Be not ready, and answer from now on so that clients go elsewhere."""
        self._draining = True

    async def finished(self) -> None:
        """Wait until nothing is in flight and no client may be about to ask again, as long as the settings allow."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._idle.wait()
                while (left_s := self._answered_s + LINGER_S - time.monotonic()) > 0:
                    await asyncio.sleep(left_s)
                    await self._idle.wait()

    async def _send_away(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._draining:
            # aiohttp has settled the header fields by now, so the word and the deed are two things.
            response.headers["Connection"] = "close"
            response.force_close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every answer is counted, and every error has OpenAI's form."""
        answer: web.StreamResponse
        try:
            answer = await handler(request)
        except Failure as failure:
            answer = web.json_response(failure.body(), status=failure.status, headers=failure.headers())
        except web.HTTPException as error:
            told = Failure(error.status, "invalid_request_error", _words(error, request))
            answer = web.json_response(told.body(), status=error.status)
        except (ConnectionError, asyncio.CancelledError):  # the client went away: nobody reads an answer
            raise
        except Exception:
            log.exception("this is a bug in the gateway")
            bug = Failure(500, "server_error", "internal error; the gateway's log has it")
            answer = web.json_response(bug.body(), status=bug.status)
        route = request.match_info.route.resource
        self._metrics.requests.labels(route.canonical if route else "none", answer.status).inc()
        self._answered_s = time.monotonic()
        return answer

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, ChatRequest)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, CompletionRequest)

    async def _answer(
        self, request: web.Request, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> web.StreamResponse:
        arrived_s = time.monotonic()
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        self._idle.clear()
        try:
            body = api.parse(kind, await self._body(request))
            try:
                return await self._generated(request, body, arrived_s)
            except Failure as failure:
                raise translate.in_words_of(body, failure) from failure
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            if not self._in_flight:
                self._idle.set()

    async def _generated(
        self, request: web.Request, body: ChatRequest | CompletionRequest, arrived_s: float
    ) -> web.StreamResponse:
        model = self._engines.model(body.model)
        wanted = translate.generate_request(body, model.chat_template, request.headers.get(classes.HEADER))
        is_chat = isinstance(body, ChatRequest)
        answer_id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        head = Head(is_chat, answer_id, int(time.time()), model.model)
        choices = [Choice(index, is_chat) for index in range(body.n)]
        async with AsyncExitStack() as stack:
            sources = []
            for choice in choices:
                asked = translate.seeded(wanted, choice.index)
                source = self._engines.generate(asked, self._settings.request_timeout_s)
                sources.append(await stack.enter_async_context(aclosing(source)))
            firsts = await first_messages(sources)
            for first in firsts:
                if isinstance(first, pb.GenerateComplete) and (failure := errors.of_end(first)) is not None:
                    raise failure  # nothing was sent yet, so the status can say it
            self._metrics.answered(classes.name(wanted.priority), time.monotonic() - arrived_s)
            messages = await stack.enter_async_context(aclosing(_joined(firsts, sources)))
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                return await _stream(request, head, choices, messages, usage=usage)
            return await _whole(head, choices, messages)

    async def _body(self, request: web.Request) -> bytes:
        """The whole body; a client that sends it too slowly, or not as it says, would hold up a drain, or look like a bug."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                return await request.read()
        except TimeoutError:
            seconds = self._settings.request_timeout_s
            raise Failure(408, "invalid_request_error", f"the body did not come within {seconds:g} s") from None
        except web.RequestPayloadError as error:
            raise errors.invalid(f"the body cannot be read: {' '.join(str(error).split())}", None) from None

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [_entry(info) for info in self._engines.models()]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        return web.json_response(_entry(self._engines.model(name)))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._draining:
            return web.Response(text="draining\n", status=503)
        return web.Response(text="ok\n") if self._engines.models() else web.Response(text="no engine\n", status=503)

    async def _render_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _entry(info: pb.ModelInfo) -> Json:
    """A model as OpenAI lists it."""
    return {
        "id": info.model,
        "object": "model",
        "created": 0,
        "owned_by": "headway",
        "max_model_len": info.max_model_len,
    }


async def _joined(firsts: Sequence[Message], sources: Sequence[Source]) -> AsyncGenerator[tuple[int, Message]]:
    for index, first in enumerate(firsts):
        yield index, first
    rest = merged(sources) if len(sources) > 1 else alone(sources[0])
    async with aclosing(rest):
        async for indexed in rest:
            yield indexed


async def _whole(head: Head, choices: Sequence[Choice], messages: AsyncIterator[tuple[int, Message]]) -> web.Response:
    async for index, message in messages:
        _take(choices[index], message)
    _check_complete(choices)
    return web.json_response(head.whole(choices))


async def _stream(
    request: web.Request,
    head: Head,
    choices: Sequence[Choice],
    messages: AsyncIterator[tuple[int, Message]],
    *,
    usage: bool,
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)

    async def send(part: Json | None) -> None:
        if part is not None:
            await _send(response, head.event(part))

    for choice in choices:
        await send(choice.opening())
    try:
        async for index, message in messages:
            choice = choices[index]
            await send(choice.piece(message))
            _take(choice, message)
            if choice.complete is not None:
                await send(choice.closing())
        _check_complete(choices)
        if usage:
            await _send(response, head.bill(choices))
        await response.write(b"data: [DONE]\n\n")
    except Failure as failure:
        await _send(response, failure.body())
    await response.write_eof()
    return response


def _check_complete(choices: Sequence[Choice]) -> None:
    if any(choice.complete is None for choice in choices):
        raise Failure(500, "server_error", "the engine ended the answer without completing it")


def _take(choice: Choice, message: Message) -> None:
    failure = errors.of_end(message) if isinstance(message, pb.GenerateComplete) else None
    if failure is not None:
        raise failure
    choice.take(message)


async def _send(response: web.StreamResponse, event: dict[str, object]) -> None:
    await response.write(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")


def _words(error: web.HTTPException, request: web.Request) -> str:
    match error.status:
        case 404:
            return f"there is no {request.path}; see /v1/models, /v1/completions, /v1/chat/completions"
        case 405:
            return f"{request.path} does not take {request.method}"
        case _:
            return error.text or error.reason
