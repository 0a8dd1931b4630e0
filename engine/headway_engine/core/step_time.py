"""How long the next step will take, learned from the steps before it.

    predicted = decode_ms + tokens * token_ms

`decode_ms` follows the steps without prompt tokens, `token_ms` what each prompt token added to the others. Both are upper
estimates: a slower step raises them at once, faster ones lower them by a twentieth of the difference. That is what a bound
on gaps needs, and it follows contexts that grow and clocks that drop without knowing of them.
"""

from dataclasses import dataclass

FORGET = 0.05
SMALLEST_CHUNK = 16  # a prompt always makes progress, whatever the bound
LARGEST_CHUNK = 1 << 20  # more than any step holds; tokens that seem to cost nothing must not be divided by
FIRST_CHUNK = 64  # while nothing is known of prompt tokens


@dataclass(slots=True)
class StepTime:
    """The estimate; times in milliseconds, None while there was no such step."""

    decode_ms: float | None = None
    token_ms: float | None = None

    def observe(self, prompt_tokens: int, duration_ms: float) -> None:
        """Take in a step that computed `prompt_tokens` beside its decodes."""
        if prompt_tokens == 0:
            self.decode_ms = _follow(self.decode_ms, duration_ms)
        elif self.decode_ms is not None:
            self.decode_ms = min(self.decode_ms, duration_ms)
            self.token_ms = _follow(self.token_ms, (duration_ms - self.decode_ms) / prompt_tokens)

    def prompt_tokens_within(self, bound_ms: float) -> int:
        """Prompt tokens that a step may have beside decodes to end within `bound_ms`.

        None at all until a step without prompt tokens has been seen: the next one will be.
        """
        if self.decode_ms is None:
            return 0
        if self.token_ms is None:
            return FIRST_CHUNK
        room_ms = bound_ms - self.decode_ms
        if room_ms <= 0:
            return SMALLEST_CHUNK
        if self.token_ms * LARGEST_CHUNK <= room_ms:
            return LARGEST_CHUNK
        return max(SMALLEST_CHUNK, int(room_ms / self.token_ms))

    def prefill_ms(self, tokens: int) -> float:
        """What `tokens` prompt tokens add to steps; 0 while nothing is known."""
        return tokens * (self.token_ms or 0.0)


def _follow(estimate: float | None, sample: float) -> float:
    return sample if estimate is None else max(sample, estimate + FORGET * (sample - estimate))
