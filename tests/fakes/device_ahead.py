"""A device that is launched ahead of the scheduler, and the executor around it: all but the numbers of a GPU.

The next token follows from all tokens before it and the request's seed, so `Answer` knows what a request gets, one token after
the other. The device reads those tokens where a GPU has them: the token of a step ahead in the sequence's row, those before it
in the blocks of the KV cache. Every launch is checked, the ones in vain too: each token that it reads must be its own sequence's at
that position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headway_engine.core.batch import UNSEEN, Batch, Chunk, StepFailure, StepResult
from headway_engine.runtime.ahead import RunAhead

EOS = 0
FAILED = StepFailure("not finite")


@dataclass
class Answer:
    """What a request gets: `tokens` are its prompt and as much of the answer as was asked for."""

    tokens: list[int]
    seed: int
    failures: bool = False
    failed_at: set[int] = field(default_factory=set)

    def token(self, position: int) -> int:
        """The token at a position, also behind the end of the answer: a step in vain computes it."""
        while len(self.tokens) <= position:
            drawn = _draw(self.tokens, self.seed)
            if self.failures and drawn % 401 == 0:
                self.failed_at.add(len(self.tokens))
            self.tokens.append(EOS if len(self.tokens) in self.failed_at else drawn % 30)
        return self.tokens[position]

    def result(self, position: int) -> StepResult:
        """What a step that draws this token returns."""
        token = self.token(position)
        return FAILED if position in self.failed_at else token


def _draw(tokens: Sequence[int], seed: int) -> int:
    return hash((tuple(tokens), seed))  # of integers: the same in every process


@dataclass(frozen=True)
class Results:
    """Implements `runtime.ahead.Answers`."""

    device: "Device"
    launch: int
    results: list[StepResult]

    def wait(self) -> list[StepResult]:
        self.device.waited_for = max(self.device.waited_for, self.launch)
        return self.results


class Device:
    """Implements `runtime.ahead.Launches`; a launch is done when it is made, which is the order of one stream."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.answers: dict[int, Answer] = {}  # by seed
        self.cache: dict[tuple[int, int], tuple[int, int]] = {}  # block, offset -> position, token
        self.rows: dict[int, tuple[int, int]] = {}  # by sequence: the token drawn last, its position
        self.launches = self.kept = self.waited_for = 0

    def next_batch(self, kept: Sequence[Chunk]) -> None:
        self.kept = len(kept)

    def launch(self, chunks: Sequence[Chunk]) -> Results:
        results = self._compute(chunks)
        return Results(self, self.launches, results)

    def decode_after(self, chunks: Sequence[Chunk]) -> Results:
        return self.launch(
            [
                Chunk(one.sequence_id, UNSEEN, one.start + len(one.token_ids), one.block_table, True, one.sampling,
                      one.seed, one.num_sampled + 1)
                for one in chunks
            ]
        )  # fmt: skip

    def _compute(self, chunks: Sequence[Chunk]) -> list[StepResult]:
        self.launches += 1
        # A GPU's buffers hold the input of a few launches only.
        assert self.launches - self.waited_for <= 3
        assert len({chunk.sequence_id for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            for position, token in enumerate(self._tokens(chunk), chunk.start):
                self.cache[self._place(chunk, position)] = position, token
        for chunk in chunks:
            answer, end = self.answers[chunk.seed], chunk.start + len(chunk.token_ids)
            read = [self.cache[self._place(chunk, position)] for position in range(end)]
            assert read == [(position, answer.token(position)) for position in range(end)]
            if chunk.sample:
                self.rows[chunk.sequence_id] = answer.token(end), end
        return [self.answers[chunk.seed].result(chunk.start + len(chunk.token_ids)) for chunk in chunks if chunk.sample]

    def _tokens(self, chunk: Chunk) -> tuple[int, ...]:
        if chunk.token_ids != UNSEEN:
            return chunk.token_ids
        token, position = self.rows[chunk.sequence_id]
        assert position == chunk.start
        return (token,)

    def _place(self, chunk: Chunk, position: int) -> tuple[int, int]:
        return chunk.block_table[position // self.block_size], position % self.block_size


class DeviceError(Exception):
    """A step that failed as a whole."""


class AheadExecutor:
    """Implements `core.batch.Executor` as `CudaExecutor` does.

    Attributes:
        steps: batches that were run.
        ahead: those that had been launched, all of each, when they came.
        passes: launches beside those.
    """

    def __init__(self, num_blocks: int, block_size: int, max_len: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.device = Device(block_size)
        self.steps = self.ahead = 0
        self.fail_next = False
        self._steps = RunAhead(self.device, block_size, max_len)

    def begin(self) -> None:
        """See `core.batch.Executor`."""

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        assert not any(chunk.careful for chunk in batch.ahead)
        if self.fail_next:
            self.fail_next = False
            self._steps.forget()
            self.device.rows.clear()
            raise DeviceError
        results = self._steps.run(batch)
        self.steps += 1
        self.ahead += self.device.kept == len(batch.chunks)
        return results
