"""The prompts that an engine's prefix cache probably holds. Pure.

The gateway cannot see that cache. It remembers what it sent: a piece of a prompt is noted when the engine's first token shows that
the prompt was computed, as many pieces are kept as the cache has room for, and those used longest ago go first, the end of a prompt
before its beginning, as in the engine. What other gateways sent is not known here, nor what answers take of the room.
"""

from collections import OrderedDict

from headway_gateway.prompt import PIECE_TOKENS, Prompt

MOST_PIECES = 8192  # of one engine: half a million tokens, in about 1 MB


class Prefixes:
    """Those of one engine."""

    __slots__ = ("_known", "_most")

    def __init__(self) -> None:
        self._known: OrderedDict[int, None] = OrderedDict()
        self._most = 0

    def __len__(self) -> int:
        return len(self._known)

    def make_room(self, capacity_tokens: int) -> None:
        """Keep as much as a cache of that size, `MOST_PIECES` at most."""
        self._most = min(capacity_tokens // PIECE_TOKENS, MOST_PIECES)
        self._shrink()

    def forget(self) -> None:
        """The engine has begun anew."""
        self._known.clear()

    def cached(self, prompt: Prompt) -> int:
        """Tokens at the beginning of `prompt` that are probably there."""
        found = 0
        for piece in prompt.pieces:
            if piece not in self._known:
                break
            found += PIECE_TOKENS
        return found

    def note(self, prompt: Prompt) -> None:
        """It has been computed there."""
        for piece in reversed(prompt.pieces):
            self._known[piece] = None
            self._known.move_to_end(piece)
        self._shrink()

    def _shrink(self) -> None:
        while len(self._known) > self._most:
            self._known.popitem(last=False)
