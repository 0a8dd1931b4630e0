"""A model without a model: a byte tokenizer and an executor that answers from a script and checks every step.

`ScriptedExecutor` keeps for each cache row which sequence and position wrote it. A step that reads a row which another
sequence has overwritten fails, so a block given out twice is seen in the step where it does harm.
"""

import threading
import time
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headway_engine.core.batch import Batch, Chunk, Executor, StepFailure, StepResult
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loaded import LoadedModel, ModelFacts

EOS = 256
VOCAB_SIZE = 257


class ByteTokenizer:
    """One token per byte; 256 ends the answer and is special."""

    vocab_size = VOCAB_SIZE
    eos_token_ids = (EOS,)
    chat_template = "{{ messages }}"
    words_apart = True

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate: threading.Event | None = None
        self.failure: Exception | None = None

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if self.gate is not None:
            self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(texts))
        return [list(text.encode()) for text in texts]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        parts, run = [], bytearray()
        for token in ids:
            if token != EOS:
                run.append(token)
                continue
            parts.append(run.decode(errors="replace"))
            parts.append("" if skip_special_tokens else "<eos>")
            run.clear()
        return "".join(parts) + run.decode(errors="replace")

    def serialized(self) -> str:
        # Byte-level vocabularies write each byte as a character of its own.
        shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
        hidden = [byte for byte in range(256) if byte not in shown]
        spelled = {chr(byte if byte in shown else 256 + hidden.index(byte)): byte for byte in range(256)}
        tokenizer = Tokenizer(models.BPE(vocab=spelled, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<eos>"])
        return tokenizer.to_str()


class ScriptedExecutor:
    """The request's seed picks its answer; after the answer comes EOS."""

    def __init__(self, answers: tuple[bytes, ...] = (b"",), num_blocks: int = 64, block_size: int = 4) -> None:
        self.answers = answers
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.rows: dict[tuple[int, int], tuple[int, int]] = {}
        self.batches: list[Batch] = []
        self.failures: dict[int, Exception] = {}  # by number of the step
        self.bad_seeds: set[int] = set()
        self._steps_allowed: threading.Semaphore | None = None
        self.begun_in = ""
        self.begin_error: Exception | None = None

    def hold(self) -> None:
        """From now on a step waits for `release`."""
        self._steps_allowed = threading.Semaphore(0)

    def release(self, steps: int = 1) -> None:
        assert self._steps_allowed is not None
        self._steps_allowed.release(steps)

    def begin(self) -> None:
        self.begun_in = threading.current_thread().name
        if self.begin_error is not None:
            raise self.begin_error

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        if self._steps_allowed is not None and not self._steps_allowed.acquire(timeout=60):
            raise AssertionError("the test never released this step")
        self.batches.append(batch)
        failure = self.failures.get(len(self.batches))
        if failure is not None:
            raise failure
        for chunk in batch.chunks:
            self._write(chunk)
        for chunk in batch.chunks:
            self._read(chunk)
        return tuple(self._sample(chunk) for chunk in batch.chunks if chunk.sample)

    def _write(self, chunk: Chunk) -> None:
        for position in range(chunk.start, chunk.start + len(chunk.token_ids)):
            block = chunk.block_table[position // self.block_size]
            assert 1 <= block <= self.num_blocks
            self.rows[block, position % self.block_size] = (chunk.sequence_id, position)

    def _read(self, chunk: Chunk) -> None:
        for position in range(chunk.start + len(chunk.token_ids)):
            row = self.rows[chunk.block_table[position // self.block_size], position % self.block_size]
            assert row == (chunk.sequence_id, position)

    def _sample(self, chunk: Chunk) -> StepResult:
        if chunk.seed in self.bad_seeds:
            return StepFailure("logits are not finite")
        answer = self.answers[chunk.seed % len(self.answers)]
        return answer[chunk.num_sampled] if chunk.num_sampled < len(answer) else EOS


class PacedExecutor(ScriptedExecutor):
    """Steps that take their time, as a model's do."""

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        time.sleep(0.002)
        return super().run(batch)


class QuickExecutor:
    """Answers each chunk with token 65."""

    num_blocks, block_size = 400, 4

    def begin(self) -> None:
        pass

    def run(self, batch: Batch) -> tuple[int, ...]:
        return tuple(65 for chunk in batch.chunks if chunk.sample)


def paced(_config: EngineConfig) -> LoadedModel:
    """A model for a step process, which imports this."""
    return loaded(PacedExecutor((b"a long answer of some 40 tokens, all bytes",)))


def loaded(executor: Executor, max_model_len: int = 128) -> LoadedModel:
    facts = ModelFacts("llama", "float32", "cpu", max_model_len, VOCAB_SIZE)
    return LoadedModel(executor, ByteTokenizer(), facts)


def config(
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 32,
    max_queued_requests: int = 16,
    batch_wait_ms: int = 0,
) -> EngineConfig:
    return EngineConfig(
        model=Path("toy"),
        capacity_max_num_seqs=max_num_seqs,
        capacity_max_num_batched_tokens=max_num_batched_tokens,
        max_queued_requests=max_queued_requests,
        batch_wait_ms=batch_wait_ms,
    )
