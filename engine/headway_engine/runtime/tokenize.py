"""The tokenizer at work: text becomes token ids off the event loop, many requests in one call.

One worker thread encodes. Texts that arrive while it is busy wait in a list, and the whole list is the next batch: under
load the batches grow by themselves, and a lone request is encoded at once. No task is created, so none can leak.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Tokenizer(Protocol):
    """What the runtime needs of a tokenizer. `encode_batch` runs in a worker thread, `decode` on the event loop."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def words_apart(self) -> bool:
        """No token holds parts of two words that ASCII white space separates: a text has no fewer tokens than words."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The model's own end-of-sequence tokens."""

    @property
    def chat_template(self) -> str:
        """Jinja source, empty when there is none."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, special tokens added as the model expects for a plain prompt."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of `ids`, unchanged by clean-up rules; incomplete UTF-8 shows as U+FFFD."""

    def serialized(self) -> str:
        """All of it, as the contents of a `tokenizer.json`."""


class TokenizerPool:
    """Encodes texts in one worker thread, batching whatever waits. Used from one event loop."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headway-tokenize")
        self._waiting: list[tuple[str, asyncio.Future[list[int]]]] = []
        self._busy = False

    async def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            Exception: what the tokenizer raised on a batch that held this text.
        """
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if not self._busy:
            self._start_batch()
        return await future

    def close(self) -> None:
        """Let the worker thread end; texts that still wait are cancelled."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start_batch(self) -> None:
        batch = [(text, future) for text, future in self._waiting if not future.done()]
        self._waiting.clear()
        self._busy = bool(batch)
        if not batch:
            return
        texts = [text for text, _ in batch]
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._tokenizer.encode_batch, texts)
        job.add_done_callback(lambda done: self._finish_batch([future for _, future in batch], done))

    def _finish_batch(self, futures: list[asyncio.Future[list[int]]], done: "asyncio.Future[list[list[int]]]") -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        encoded = [] if error else done.result()
        for index, future in enumerate(futures):
            if future.done():  # its caller went away meanwhile
                continue
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(encoded[index])
        self._start_batch()
