"""From token ids to the text that may be shown: whole characters only, and never a part of a stop string.

`TextDecoder` decodes a small window instead of the whole answer. The window begins with tokens that were shown already,
because a tokenizer may write a token differently at the start of a text (a leading space, for instance):

    window = [shown tokens, new tokens]     new text = decode(window)[len(decode(shown tokens)):]

A token that ends inside a UTF-8 character decodes to U+FFFD at the end: nothing is shown until the character is complete.
After `MAX_HELD_TOKENS` it will not become one, and what is there is shown; so the window, and the cost of a token, stay
bounded.

`StopMatcher` then holds text back while its end may be the beginning of a stop string.
"""

from dataclasses import dataclass
from typing import Protocol

CONTEXT_TOKENS = 4
# A UTF-8 character has at most 4 bytes, so at most 4 byte tokens; some room for tokens that are not shown at all.
MAX_HELD_TOKENS = 16
REPLACEMENT = "\ufffd"


class Decode(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """The text of `ids`."""


class TextDecoder:
    """Incremental detokenization of one answer."""

    __slots__ = ("_num_shown", "_skip_special", "_tokenizer", "_window")

    def __init__(self, tokenizer: Decode, prompt_ids: tuple[int, ...], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special_tokens
        self._window = list(prompt_ids[-CONTEXT_TOKENS:])
        if self._decode(self._window).endswith(REPLACEMENT):
            self._window = []  # the prompt ends inside a character: it is no context to compare with
        self._num_shown = len(self._window)

    def push(self, token_id: int) -> str:
        """The new text that `token_id` completes; often empty inside a character."""
        self._window.append(token_id)
        known = self._decode(self._window)
        if known.endswith(REPLACEMENT) and len(self._window) - self._num_shown < MAX_HELD_TOKENS:
            return ""
        return self._show(known)

    def flush(self) -> str:
        """What is still held, without the character that was never completed."""
        return self._show(self._decode(self._window).rstrip(REPLACEMENT))

    def _show(self, known: str) -> str:
        before = self._decode(self._window[: self._num_shown])
        # The tokens shown now are the next context; those before them are forgotten.
        del self._window[: self._num_shown]
        self._num_shown = len(self._window)
        return known[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip_special) if ids else ""


@dataclass(frozen=True, slots=True)
class Shown:
    """Text to deliver, and the stop string that ended the answer, if one did."""

    text: str
    matched_stop: str = ""


class StopMatcher:
    """Finds stop strings across the borders of tokens."""

    __slots__ = ("_held", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> Shown:
        """Text that can be delivered now; the stop string and what follows it never are."""
        if not self._stops:
            return Shown(text)
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda match: match[0])
            self._held = ""
            return Shown(text[:at], stop)
        hold = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - hold :]
        return Shown(text[: len(text) - hold])

    def flush(self) -> str:
        """What was held back, when the answer ended otherwise."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
