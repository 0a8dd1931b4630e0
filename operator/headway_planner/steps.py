"""How long one step of a continuous-batching engine takes, and many identical steps at once.

    step = host + lin(n) + att_dec0 + att_dec_seq * B + att_dec_ctx * sum(ctx)          B sequences decode, n = B tokens
    lin(n) = max(a1 + b1 * n, a2 + b2 * n)                                              weights read, or multiplied
    a chunk of c prompt tokens after o earlier ones adds
        prefill_factor * (lin(n + c) - lin(n) + att_pf * c * (2 * o + c))
    and the last chunk of a prompt, from which its first token is drawn, prompt_end. An engine that runs ahead of its scheduler
    has a step on its device before the one before it is over. Unless that step has prompts left over, of which it is made whole, it
    has decodes only; the chunks of prompts that came meanwhile are computed apart, in a second pass over the weights:
        prefill_factor * (lin(c) + att_pf * c * (2 * o + c))
    Where the kernels of such a step are launched one by one, or a graph computes it padded to a larger one, no step with a
    chunk takes less than prompt_step, or where sequences decode, prompt_step_beside.

An engine whose decode steps are graphs of some sizes computes every batch as the next larger size. What such a step takes is no line
in B: a size may have other kernels than its neighbours, and be dearer than a larger one. Where sizes were measured (`decode_sizes`),

    step = ms of the next measured size + att_dec_ctx * sum(ctx)

A run of decode steps with the same B differs from step to step only by B more tokens of context, so k steps take
k * first + k * (k - 1) / 2 * growth: `run_time` and its inverse `steps_within`. The simulator rests on this.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Chunks(NamedTuple):  # one is made for each step of a simulation, and a frozen dataclass costs twice as much
    """The prompt tokens of a step.

    Attributes:
        tokens: of all chunks.
        squares: sum of chunk * (2 * before + chunk).
        ended: prompts whose last token is among them.
    """

    tokens: int
    squares: float
    ended: int = 0


class StepCost(Protocol):
    """What a policy must know of an engine's steps, whether from a table of coefficients or learnt from its counters."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""

    @property
    def prefill_token_ms(self) -> float:
        """What one prompt token adds to a step."""

    @property
    def prefill_square_ms(self) -> float:
        """What a squared prompt token adds: prefill attention."""

    @property
    def prompt_end_ms(self) -> float:
        """What the end of a prompt adds: its first token."""

    def decode_ms(self, sequences: int, context: float) -> float:
        """One step in which `sequences` decode over `context` tokens of KV together, and nothing is prefilled."""


@dataclass(frozen=True, slots=True)
class StepModel:
    """Coefficients of one engine: model, GPU, tensor parallelism. All times are milliseconds.

    Attributes:
        name: what the user calls it.
        gpus: GPUs of one replica.
        host_ms: per step, outside of the kernels.
        a1_ms, b1_ms: linear layers bound by memory: constant, per token.
        a2_ms, b2_ms: linear layers bound by compute.
        att_pf_ms: prefill attention per squared token.
        att_dec0_ms, att_dec_seq_ms, att_dec_ctx_ms: decode attention: constant, per sequence, per token of context.
        kv_tokens: tokens that the KV cache holds.
        prefill_factor: measured over modelled prefill time.
        first_token_ms: server time of a first token outside of the steps.
        first_token_each_ms: more of it for each sequence that decodes in the step, because all their tokens go the same way.
        ahead: the engine runs ahead of its scheduler, see the module.
        prompt_step_ms, prompt_step_beside_ms: the least that a step with prompt tokens takes, alone and beside decodes.
        prompt_end_ms: per prompt that ends in a step.
        decode_sizes: (sequences, ms without context) of measured decode steps, ascending; batches larger than all of them, and all
            where there are none, are priced by the coefficients.
    """

    name: str
    gpus: int
    host_ms: float
    a1_ms: float
    b1_ms: float
    a2_ms: float
    b2_ms: float
    att_pf_ms: float
    att_dec0_ms: float
    att_dec_seq_ms: float
    att_dec_ctx_ms: float
    kv_tokens: int
    prefill_factor: float = 1.0
    first_token_ms: float = 0.0
    ahead: bool = False
    prompt_step_ms: float = 0.0
    prompt_step_beside_ms: float = 0.0
    prompt_end_ms: float = 0.0
    first_token_each_ms: float = 0.0
    decode_sizes: tuple[tuple[int, float], ...] = ()

    @property
    def prefill_token_ms(self) -> float:
        """The slope of the compute-bound branch: beside decoding sequences the weights are read anyway."""
        return self.prefill_factor * self.b2_ms

    @property
    def prefill_square_ms(self) -> float:
        """Prefill attention of one squared token."""
        return self.prefill_factor * self.att_pf_ms

    def linear_ms(self, tokens: int) -> float:
        """The linear layers for `tokens` in the step."""
        read, multiplied = self.a1_ms + self.b1_ms * tokens, self.a2_ms + self.b2_ms * tokens
        return read if read > multiplied else multiplied  # noqa: FURB136 - millions of times in a simulation

    def decode_ms(self, sequences: int, context: float) -> float:
        """One step in which `sequences` decode over `context` tokens of KV together, and nothing is prefilled."""
        if not sequences:
            return self.host_ms + self.linear_ms(0)
        if self.decode_sizes:
            size = bisect_left(self.decode_sizes, (sequences,))
            if size < len(self.decode_sizes):
                return self.decode_sizes[size][1] + self.att_dec_ctx_ms * context
        attention = self.att_dec0_ms + self.att_dec_seq_ms * sequences + self.att_dec_ctx_ms * context
        return self.host_ms + self.linear_ms(sequences) + attention

    def chunk_ms(self, sequences: int, chunk: int, before: int = 0) -> float:
        """What a chunk of a prompt adds to a step in which `sequences` decode."""
        return self.prompts_ms(sequences, Chunks(chunk, chunk * (2 * before + chunk)))

    def prompts_ms(self, sequences: int, chunks: Chunks, *, apart: bool = False) -> float:
        """What chunks add to a step in which `sequences` decode. `apart`: the decodes were launched before the chunks were known."""
        if not chunks.tokens:
            return 0.0
        if apart and sequences:
            linear = self.linear_ms(chunks.tokens)
        else:
            linear = self.linear_ms(sequences + chunks.tokens) - self.linear_ms(sequences)
        return self.prefill_factor * (linear + self.att_pf_ms * chunks.squares) + self.prompt_end_ms * chunks.ended

    def step_ms(self, sequences: int, context: float, chunks: Chunks, *, apart: bool = False) -> float:
        """A whole step; see `decode_ms` and `prompts_ms`."""
        total = self.decode_ms(sequences, context) + self.prompts_ms(sequences, chunks, apart=apart)
        if not chunks.tokens:
            return total
        return max(total, self.prompt_step_beside_ms if sequences else self.prompt_step_ms)

    def prefill_ms(self, prompt: int, budget: int) -> float:
        """First token of a prompt on an idle engine with `budget` tokens a step: the shortest TTFT there is."""
        total, done = self.first_token_ms, 0
        while done < prompt:
            chunk = min(budget, prompt - done)
            total += self.step_ms(0, 0, Chunks(chunk, chunk * (2 * done + chunk), int(done + chunk == prompt)))
            done += chunk
        return total

    def front_ms(self, sequences: int) -> float:
        """What a token of a step in which `sequences` decode takes outside of the step."""
        return self.first_token_ms + self.first_token_each_ms * sequences

    def least_work_ms(self, prompt: int, output: int) -> float:
        """Engine time that a request costs at the least, in steps so large that constants do not count."""
        linear = self.b2_ms * (self.prefill_factor * prompt + output)
        context = output * (prompt + output / 2)
        attention = self.prefill_factor * self.att_pf_ms * prompt * prompt + self.att_dec_ctx_ms * context
        return linear + attention + self.att_dec_seq_ms * output + self.prompt_end_ms


def run_time(first: float, growth: float, steps: int) -> float:
    """Time of `steps` steps, the first of which takes `first` and each next one `growth` more."""
    return steps * (first + 0.5 * growth * (steps - 1))


def steps_within(first: float, growth: float, elapsed: float) -> int:
    """The fewest steps, at least 1, that take `elapsed` or longer."""
    if elapsed <= first:
        return 1
    lead = first - 0.5 * growth
    # The root of the quadratic in the form that loses no digits when the growth is small.
    exact = 2 * elapsed / (lead + math.sqrt(lead * lead + 2 * growth * elapsed))
    steps = max(1, math.ceil(exact - 1e-9))
    # The square root may be one off at a boundary; a step is never split.
    while run_time(first, growth, steps) < elapsed - 1e-12:
        steps += 1
    return steps
