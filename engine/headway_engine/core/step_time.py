"""How long the next step will take, learned from the steps before it.

    predicted = decode_ms + work * token_ms
    work      = the sum of n * (1 + reach * (2 b + n))    over prompts of which n tokens are computed behind b others

`decode_ms` follows the steps without prompt tokens, `token_ms` what each unit of work added to the others. Both are upper
estimates: a slower step raises them at once, faster ones lower them by a twentieth of the difference. That is what a bound
on gaps needs, and it follows contexts that grow and clocks that drop without knowing of them.

A token far back in a long prompt costs more, since it looks at all before it: `2 b + n` is twice the mean number of those, and
`reach` says what each half of one costs beside the token itself. It is the slope of a line through what tokens cost over how
far they look, and it changes only while steps differ enough in that: short prompts alone leave it as it was. Until it has been
measured it is a guess, and a token is not thought to be cheaper than those were that taught it: too high a guess makes the
tokens of a large step cheap by their work, and then those of a small one, which a stream of a stricter class asks for next.
"""

import math
from dataclasses import dataclass, field

FORGET = 0.05
SMALLEST_CHUNK = 16  # a prompt always makes progress, whatever the bound
LARGEST_CHUNK = 1 << 20  # more than any step holds; tokens that seem to cost nothing must not be divided by
FIRST_CHUNK = 64  # while nothing is known of prompt tokens
FIRST_REACH = 0.0005  # while nothing is known of it: a small model's on a CPU, ten times a large one's
MOST_REACH = 0.01  # the hundredth token before it costs as much as the token itself: no model is so
_MEMORY = 0.97  # what a point of the line still counts after the next one
_APART = 256.0  # half tokens: the least standard deviation that says something of a slope


@dataclass(slots=True)
class _Line:
    """A straight line through points, by weighted least squares: the newest points count most."""

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float, weight: float) -> None:
        """Take in a point."""
        self.count = _MEMORY * self.count + weight
        self.x = _MEMORY * self.x + weight * x
        self.y = _MEMORY * self.y + weight * y
        self.xx = _MEMORY * self.xx + weight * x * x
        self.xy = _MEMORY * self.xy + weight * x * y

    def reach(self) -> float | None:
        """The slope over the height at zero, 0 to `MOST_REACH`; None where the points say nothing of it."""
        x, y = self.x / self.count, self.y / self.count
        variance = self.xx / self.count - x * x
        if variance < _APART**2:
            return None
        slope = (self.xy / self.count - x * y) / variance
        if slope <= 0:
            return 0.0
        height = y - slope * x
        return min(MOST_REACH, slope / height) if height > 0 else MOST_REACH


@dataclass(slots=True)
class StepTime:
    """The estimate; times in milliseconds, None while there was no such step."""

    decode_ms: float | None = None
    token_ms: float | None = None
    reach: float = FIRST_REACH
    _line: _Line = field(default_factory=_Line)
    _plain_ms: float | None = None  # what a token added whatever it looked at, while `reach` is a guess
    _measured: bool = False  # `reach` has been

    def observe(self, prompt_tokens: int, squares: int, duration_ms: float) -> None:
        """Take in a step that computed `prompt_tokens` beside its decodes; `squares`: the sum of n (2 b + n)."""
        if prompt_tokens == 0:
            self.decode_ms = _follow(self.decode_ms, duration_ms)
        elif self.decode_ms is not None:
            self.decode_ms = min(self.decode_ms, duration_ms)
            added_ms = duration_ms - self.decode_ms
            before = prompt_tokens + self.reach * squares
            self._line.add(squares / prompt_tokens, added_ms / prompt_tokens, prompt_tokens)
            reach = self._line.reach()
            self.reach = self.reach if reach is None else reach
            self._measured |= reach is not None
            self._plain_ms = _follow(self._plain_ms, added_ms / prompt_tokens)
            work = prompt_tokens + self.reach * squares
            # Another reach makes other units of work: what was predicted for this step stays.
            known = None if self.token_ms is None else self.token_ms * before / work
            self.token_ms = _follow(known, added_ms / work)

    def work_within(self, bound_ms: float) -> float:
        """Work that a step may have beside decodes to end within `bound_ms`.

        None at all until a step without prompt tokens has been seen: the next one will be.
        """
        if self.decode_ms is None:
            return 0.0
        if self.token_ms is None:
            return FIRST_CHUNK
        room_ms = bound_ms - self.decode_ms
        if room_ms <= 0:
            return SMALLEST_CHUNK
        if self.token_ms * LARGEST_CHUNK <= room_ms:
            return LARGEST_CHUNK
        return max(SMALLEST_CHUNK, room_ms / self.token_ms)

    def work(self, tokens: int, start: int) -> float:
        """What `tokens` of a prompt cost behind `start` others."""
        return max(tokens + self.reach * tokens * (2 * start + tokens), tokens * self._least_work)

    def tokens(self, work: float, start: int) -> int:
        """How many tokens of a prompt, behind `start` others, are no more than `work`."""
        if work <= 0:
            return 0
        if work >= LARGEST_CHUNK:  # there is no bound
            return LARGEST_CHUNK
        first = 1 + 2 * self.reach * start
        by_reach = 2 * work / (first + math.sqrt(first * first + 4 * self.reach * work))
        return int(min(by_reach, work / self._least_work))

    @property
    def _least_work(self) -> float:
        """Of a token: 1, more while `reach` is a guess that takes a part of what tokens cost."""
        if self._measured or not self._plain_ms or not self.token_ms:
            return 1.0
        return max(1.0, self._plain_ms / self.token_ms)

    def prefill_ms(self, tokens: int, start: int) -> float:
        """What `tokens` of a prompt behind `start` others add to steps; 0 while nothing is known."""
        return self.work(tokens, start) * (self.token_ms or 0.0)


def _follow(estimate: float | None, sample: float) -> float:
    return sample if estimate is None else max(sample, estimate + FORGET * (sample - estimate))
