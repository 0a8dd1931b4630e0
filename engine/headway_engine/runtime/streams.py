"""Token streams: what the step thread produced becomes what one client reads.

`Streams.publish` runs in the step thread and costs one wake-up of the event loop per step, however many requests the step
had. Everything else runs on the event loop: detokenization, the search for stop strings, and the hand-over to readers.

A stream keeps one item that its reader has not taken yet. A reader that stalls finds its tokens coalesced in it: memory is
bounded by the length of an answer, and neither the step nor another reader ever waits.

A stop string is found here, one step after its token was sampled. The stream then asks the step thread to end the request
and cuts what was sampled in the meantime from the answer. The record of a request goes when its `Finished` arrives, in all
cases, so "no stream" means that the scheduler holds nothing of it either.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from headway_engine.core.events import StepEvent
from headway_engine.core.logprobs import Candidate, TokenLogprobs
from headway_engine.core.request import Finished, FinishReason, Request, RequestId
from headway_engine.runtime.detokenize import Decode, StopMatcher, TextDecoder


@dataclass(frozen=True, slots=True)
class StreamItem:
    """Tokens since the last item and the text that may be shown by now; `finished` comes with the last item.

    `logprobs` has an entry for each token where the request wants them, and none otherwise.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: Finished | None
    logprobs: tuple[TokenLogprobs, ...] = ()


class TokenStream:
    """The answer to one request, as an async iterator with one reader."""

    def __init__(self, request: Request, tokenizer: Decode, abort: Callable[[RequestId, FinishReason], object]) -> None:
        sampling = request.sampling
        self.request_id = request.request_id
        self._abort = abort
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tokenizer, request.prompt_ids, sampling.skip_special_tokens)
        self._matcher = StopMatcher(sampling.stop)
        self._silent_ids = frozenset(sampling.stop_token_ids)  # like a stop string, not part of the text
        self._prompt_tokens = len(request.prompt_ids)
        self._answer: list[int] = []
        self._matched_stop = ""
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finished: Finished | None = None
        self._closed = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> AsyncIterator[StreamItem]:
        return self

    async def __anext__(self) -> StreamItem:
        while not self._closed:
            item = self.take()
            if item is not None:
                return item
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        raise StopAsyncIteration

    def take(self) -> StreamItem | None:
        """What there is to read now, without waiting; None when there is nothing."""
        if self._closed or not (self._tokens or self._finished):
            return None
        item = StreamItem(tuple(self._tokens), "".join(self._text), self._finished, tuple(self._logprobs))
        self._forget()
        self._closed = self._finished is not None
        return item

    def cancel(self) -> None:
        """The client went away: nothing more is delivered, and the request ends. Safe to call again or too late."""
        if not self._closed:
            self._closed = True
            self._forget()
            self._abort(self.request_id, FinishReason.ABORT)
            self._wake()

    def push(self, event: StepEvent) -> None:
        """Take in what a step did; called by `Streams` on the event loop."""
        if self._closed:
            return
        matched_before = bool(self._matched_stop)
        for token in event.token_ids:
            if not self._matched_stop:
                self._accept(token)
                if event.logprobs is not None:
                    self._logprobs.append(self._spelled(event.logprobs))
        if event.finished is not None:
            self._finish(event.finished)
        elif self._matched_stop and not matched_before:
            self._abort(self.request_id, FinishReason.STOP)
        self._wake()

    def fail(self, message: str) -> None:
        """End with ERROR without the step thread, which is gone."""
        finished = Finished(
            FinishReason.ERROR, tuple(self._answer), self._prompt_tokens, queue_ms=0.0, ttft_ms=0.0, error=message
        )
        self.push(StepEvent(self.request_id, (), finished))

    def _accept(self, token: int) -> None:
        self._answer.append(token)
        self._tokens.append(token)
        if token not in self._silent_ids:
            self._show(self._decoder.push(token))

    def _spelled(self, logprobs: TokenLogprobs) -> TokenLogprobs:
        """With the text of each token."""

        def spell(candidate: Candidate) -> Candidate:
            return replace(candidate, text=self._tokenizer.decode([candidate.token_id], skip_special_tokens=False))

        return TokenLogprobs(spell(logprobs.chosen), tuple(map(spell, logprobs.top)))

    def _forget(self) -> None:
        """What was held for the reader is with it, or has none."""
        self._tokens.clear()
        self._text.clear()
        self._logprobs.clear()

    def _show(self, text: str) -> None:
        shown = self._matcher.push(text)
        self._matched_stop = shown.matched_stop
        if shown.text:
            self._text.append(shown.text)

    def _finish(self, finished: Finished) -> None:
        if not self._matched_stop:
            self._show(self._decoder.flush())
        if self._matched_stop:
            finished = replace(
                finished,
                reason=FinishReason.STOP,
                output_ids=tuple(self._answer),
                matched_stop=self._matched_stop,
                error="",
            )
        else:
            self._text.append(self._matcher.flush())
        self._finished = finished

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Streams:
    """The streams of all requests in flight. All methods but `publish` and `fail` belong to the event loop."""

    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop,
        on_delivered: Callable[[Sequence[StepEvent]], None],
        on_failed: Callable[[], None],
    ) -> None:
        self._event_loop = event_loop
        self._on_delivered = on_delivered
        self._on_failed = on_failed
        self._open: dict[RequestId, TokenStream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._open

    def add(self, stream: TokenStream) -> None:
        """Deliver events of this request from now on."""
        self._open[stream.request_id] = stream

    def publish(self, events: Sequence[StepEvent]) -> None:
        """Hand the events of a step over; called in the step thread."""
        # The event loop is closed only when the process is going down, and then nobody reads.
        with contextlib.suppress(RuntimeError):
            self._event_loop.call_soon_threadsafe(self._deliver, events)

    def changed(self) -> None:
        """Streams have no use for figures."""

    def fail(self, message: str) -> None:
        """The step thread ends by a bug: so does every stream; called in the step thread."""
        with contextlib.suppress(RuntimeError):
            self._event_loop.call_soon_threadsafe(self._fail_all, message)

    def _fail_all(self, message: str) -> None:
        streams, self._open = self._open, {}
        for stream in streams.values():
            stream.fail(message)
        self._on_failed()
        self._on_delivered(())

    def _deliver(self, events: Sequence[StepEvent]) -> None:
        for event in events:
            stream = self._open.get(event.request_id)
            if stream is None:
                continue
            if event.finished is not None:
                del self._open[event.request_id]
            stream.push(event)
        self._on_delivered(events)
