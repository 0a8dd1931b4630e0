"""What the scheduler hands to the executor for one engine step, and what it gets back.

A step computes a `Batch`: for each scheduled sequence one `Chunk` of consecutive tokens. A prefill chunk carries prompt
tokens (the last one of a prompt also samples); a decode chunk carries the one token sampled before. After the step the
KV cache holds the keys and values of every token in the batch.

KV cache layout, for every attention back end and kernel: one tensor each for keys and values per layer, of shape
`[num_blocks, block_size, num_kv_heads, head_dim]`. Token at position p of a sequence lives in block
`block_table[p // block_size]`, row `p % block_size`. Block 0 is never given to a sequence: padding rows write there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from headway_engine.core.constraint import Constraint
from headway_engine.core.logprobs import TokenLogprobs
from headway_engine.core.request import SamplingParams

# The token of a chunk that the step before it samples: nobody has seen it yet.
UNSEEN = (-1,)


@dataclass(frozen=True, slots=True)
class Careful:
    """What drawing a row takes whose sampling is not plain (`SamplingParams.plain`).

    Attributes:
        tokens: prompt and answer so far; empty where no penalty looks at them.
        prompt_len: how many of them are the prompt.
        constraint: knows which tokens may come next; None = all.
    """

    tokens: tuple[int, ...]
    prompt_len: int
    constraint: Constraint | None


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence to compute in this step. A tuple, which costs half as much to make: hundreds a step.

    Attributes:
        sequence_id: stable for the life of the request, unique in the batch.
        token_ids: the tokens to compute, at positions `start .. start + len(token_ids) - 1`.
        start: number of tokens whose keys and values are already in the cache.
        block_table: the sequence's blocks, enough to hold `start + len(token_ids)` tokens.
        sample: True when the last token of the chunk is the last known one, so that a next token is drawn.
        sampling: how to draw it.
        seed: the request's random stream (drawn once per request when the client gave none).
        num_sampled: tokens sampled so far; with `seed` it fixes the random number, whatever the batch looks like.
        careful: set where a token is drawn whose sampling is not plain.
    """

    sequence_id: int
    token_ids: tuple[int, ...]
    start: int
    block_table: tuple[int, ...]
    sample: bool
    sampling: SamplingParams
    seed: int
    num_sampled: int
    careful: Careful | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One engine step: decode chunks first, then prefill chunks, in scheduling order. Never empty.

    Attributes:
        chunks: what to compute.
        prompts_follow: the next step will have prompt tokens too, as far as one can tell. An executor that runs ahead of
            the scheduler then leaves the decodes of that step to be computed along with them.
        ahead: that next step, where it is known by now: decodes (of `UNSEEN` tokens), then prompts. It will have these chunks, in
            this order, without those of sequences that have gone meanwhile (`foresee.py`).
    """

    chunks: tuple[Chunk, ...]
    prompts_follow: bool = False
    ahead: tuple[Chunk, ...] = ()

    @property
    def prompts(self) -> Iterator[Chunk]:
        """The chunks that are no decodes."""
        return (chunk for chunk in self.chunks if chunk.num_sampled == 0 or len(chunk.token_ids) > 1)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of this step beside those of the decodes."""
        return sum(len(chunk.token_ids) for chunk in self.prompts)

    @property
    def prompt_squares(self) -> int:
        """Twice the pairs of a prompt's token and one that it looks at: the sum of n (2 b + n), of n tokens behind b others."""
        return sum(len(one.token_ids) * (2 * one.start + len(one.token_ids)) for one in self.prompts)

    @property
    def num_tokens(self) -> int:
        """Tokens that this step computes."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepFailure:
    """A chunk whose logits were not finite; its request ends with ERROR, the others go on."""

    message: str


# What a sampled row comes to: the token, with its candidates where the request wants them, or why there is none.
StepResult = int | TokenLogprobs | StepFailure


class DeviceLostError(Exception):
    """The device computes nothing any more, this batch or a later one: only another process gets it back."""


class Executor(Protocol):
    """Runs batches on a device. Called from one thread only."""

    @property
    def num_blocks(self) -> int:
        """KV blocks that sequences may use (block 0 not counted)."""

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    def begin(self) -> None:
        """Make ready; called once before the first batch, by the thread that runs them."""

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """Compute one step.

        Returns:
            One entry per chunk with `sample`, in the order of the batch.

        Raises:
            DeviceLostError: no later step can succeed either.
            Exception: the step as a whole failed (out of memory, say); no chunk of it took effect.
        """
