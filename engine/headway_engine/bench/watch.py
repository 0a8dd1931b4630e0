"""An executor that writes down what each step held and took: one JSON line a step, in a file that another process reads.

It lives in the engine's step process; `watched` goes there as what loads the model. A step takes from the moment at which the
tokens of the one before it were back to that of its own, so what scheduling costs is in it. One that follows no other,
because the engine was idle or all is new, takes from when the executor got it.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from headway_engine.core.batch import Batch, Executor, StepResult
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.loaded import LoadedModel


class Watch:
    """Implements `core.batch.Executor` around another one."""

    def __init__(self, inner: Executor, ahead: bool, write: Callable[[str], object]) -> None:
        """`ahead`: `inner` launches decodes before they are scheduled. `write` takes a line."""
        self._inner = inner
        self._ahead = ahead
        self._write = write
        self._before: frozenset[int] = frozenset()  # sequences of the step before
        self._prompts_expected = False
        self._last_s = 0.0

    @property
    def num_blocks(self) -> int:
        """See `core.batch.Executor`."""
        return self._inner.num_blocks

    @property
    def block_size(self) -> int:
        """See `core.batch.Executor`."""
        return self._inner.block_size

    def begin(self) -> None:
        """See `core.batch.Executor`."""
        self._inner.begin()

    def run(self, batch: Batch) -> tuple[StepResult, ...]:
        """See `core.batch.Executor`."""
        began = time.perf_counter()
        results = self._inner.run(batch)
        now = time.perf_counter()
        sequences = frozenset(chunk.sequence_id for chunk in batch.chunks)
        follows = not sequences.isdisjoint(self._before)
        decodes = [chunk for chunk in batch.chunks if chunk.num_sampled and len(chunk.token_ids) == 1]
        prompts = [chunk for chunk in batch.chunks if not chunk.num_sampled or len(chunk.token_ids) > 1]
        chunks = [(chunk.start, len(chunk.token_ids)) for chunk in prompts]
        apart = self._ahead and bool(decodes) and bool(chunks) and not self._prompts_expected
        step = {
            "decodes": len(decodes),
            "context": sum(chunk.start + 1 for chunk in decodes),
            "chunks": chunks,
            "ended": sum(chunk.sample for chunk in prompts),
            "apart": apart,
            "ms": (now - (self._last_s if follows else began)) * 1000,
        }
        self._write(json.dumps(step) + "\n")
        self._before, self._prompts_expected, self._last_s = sequences, batch.prompts_follow, now
        return results


def watched(load: Callable[[EngineConfig], LoadedModel], path: Path, config: EngineConfig) -> LoadedModel:
    """What `load` yields, watched. The file's first line says whether the engine runs ahead."""
    model = load(config)
    ahead = model.tokens_ahead > 0

    def write(line: str) -> None:
        with path.open(
            "a", encoding="utf-8"
        ) as file:  # closed each time: the line is there before the step's tokens are
            file.write(line)

    write(json.dumps({"ahead": ahead}) + "\n")
    return LoadedModel(Watch(model.executor, ahead, write), model.tokenizer, model.model_info, model.tokens_ahead)
