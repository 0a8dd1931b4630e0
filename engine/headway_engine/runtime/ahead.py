"""Runs batches on a device one step ahead of the scheduler, so that the device never waits for Python.

    run(n):  step n is running already; launch what else is in batch n; launch step n + 1; wait for step n, return its tokens

Step n + 1 is launched before anybody has seen the tokens of step n: they stay on the device. What of it is known by then
depends on what follows:

    no prompts    the decodes, of those sequences that will go on as far as one can tell. Prompts of newcomers are launched
                  when their batch comes, while the decodes run.
    prompts       all of it, as the scheduler foresees it (`Batch.ahead`): decodes and prompts in one pass over the weights.
                  Where it cannot tell, nothing: the decodes ride along with the prompts when their batch comes.

While step n + 1 runs, the scheduler commits step n and makes batch n + 1. What of it agrees with what runs is taken from there;
the rest is launched.

- a sequence that ended (stop token, abort, preemption) has one step computed in vain. It wrote to blocks that were its own
  when it was launched; whoever gets them next is launched later, and writes before it reads.
- a sequence that came back after a preemption may have other blocks: what was launched for it counts only when it wrote to
  those that the batch names.
- a sequence runs ahead only into a block that it holds. The scheduler hands that block out one token early
  (`Scheduler(tokens_ahead=1)`) while blocks are plenty.
- what has to be drawn with the host's help (`Chunk.careful`) never runs ahead.
- a step without tokens, of a long prompt, is waited for too: the host stays one step ahead, and a step takes the time it takes.

Nothing here knows of the device but that it does in order what is launched (`Launches`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headway_engine.core.batch import Batch, Chunk, StepResult


class Answers(Protocol):
    """The results of a launch, on their way."""

    def wait(self) -> Sequence[StepResult]:
        """One for each chunk that samples, in the order of the launch, once it is done."""


class Launches(Protocol):
    """A device that computes launches in order. No method waits for it."""

    def next_batch(self, kept: Sequence[Chunk]) -> None:
        """A batch begins; of it, these chunks were launched already."""

    def launch(self, chunks: Sequence[Chunk]) -> Answers:
        """Compute chunks, decodes first."""

    def decode_after(self, chunks: Sequence[Chunk]) -> Answers:
        """Compute the tokens that these chunks, launched before, sample."""


# A chunk that was launched before it was scheduled: start, tokens, block table, and which of the launch's answers is its own (-1:
# none). Plain tuples, since there is one for each sequence and step.
_Place = tuple[int, int, tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What was launched before its batch was scheduled, by sequence id."""

    places: dict[int, _Place]
    answers: Answers | None

    def find(self, chunk: Chunk) -> int | None:
        """Which answer is the chunk's; None when it was not launched."""
        place = self.places.get(chunk.sequence_id)
        if place is None:
            return None
        start, num_tokens, launched, nth = place
        table = chunk.block_table  # may have grown since
        same = start == chunk.start and num_tokens == len(chunk.token_ids)
        return nth if same and (table is launched or table[: len(launched)] == launched) else None


_NOTHING = _Ahead({}, None)


class RunAhead:
    """Runs batches on a device; used from one thread."""

    def __init__(self, launches: Launches, block_size: int, max_len: int) -> None:
        self._launches = launches
        self._block_size = block_size
        self._max_len = max_len
        self._ahead = _NOTHING

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """See `core.batch.Executor.run`."""
        ahead, self._ahead = self._ahead, _NOTHING
        found = [ahead.find(chunk) for chunk in batch.chunks]
        rest = [chunk for chunk, nth in zip(batch.chunks, found, strict=True) if nth is None]
        self._launches.next_batch([chunk for chunk, nth in zip(batch.chunks, found, strict=True) if nth is not None])
        others = self._launches.launch(rest) if rest else None
        self._ahead = self._foreseen(batch.ahead) if batch.prompts_follow else self._decodes_after(batch.chunks)
        early = ahead.answers.wait() if ahead.answers is not None and len(rest) < len(found) else ()
        late = iter(() if others is None else others.wait())
        return tuple(
            next(late) if nth is None else early[nth]
            for chunk, nth in zip(batch.chunks, found, strict=True)
            if chunk.sample
        )

    def forget(self) -> None:
        """A launch failed: nothing was computed ahead."""
        self._ahead = _NOTHING

    def _foreseen(self, chunks: Sequence[Chunk]) -> _Ahead:
        """Launch the next step as it was foreseen."""
        if not chunks:
            return _NOTHING
        places: dict[int, _Place] = {}
        sampled = 0
        for chunk in chunks:
            places[chunk.sequence_id] = (
                chunk.start, len(chunk.token_ids), chunk.block_table, sampled if chunk.sample else -1
            )  # fmt: skip
            sampled += chunk.sample
        return _Ahead(places, self._launches.launch(chunks))

    def _decodes_after(self, chunks: Sequence[Chunk]) -> _Ahead:
        """Decode these sequences once more, those that go on as far as one can tell and hold a block for it."""
        decodes: list[Chunk] = []
        places: dict[int, _Place] = {}
        max_len, block_size = self._max_len, self._block_size
        for chunk in chunks:
            sequence_id, token_ids, begin, table, sample, sampling, _, num_sampled, careful = chunk
            start, limit = begin + len(token_ids), sampling.max_tokens
            ends = start >= max_len or (limit is not None and num_sampled + 1 >= limit)
            if sample and careful is None and not ends and start < len(table) * block_size:
                places[sequence_id] = start, 1, table, len(decodes)
                decodes.append(chunk)
        return _Ahead(places, self._launches.decode_after(decodes)) if decodes else _NOTHING
