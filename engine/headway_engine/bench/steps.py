"""What single steps take, over a designed grid: the samples that `headway bench calibrate` fits a step model to.

    python -m headway_engine.bench.steps [--shape NAME | --model PATH] [--device cuda|cpu] ...

The engine is the served one without its gRPC server: front, step process, scheduler, executor. `watch.py` notes each step in
the step process. Cells:

    prompt P          prompts of P tokens, one after the other
    chunks P by T     prompts of P tokens in steps of T
    decode B x C      B sequences over C tokens of KV each
    mixed B + P       B sequences decode, prompts of P tokens come beside them one by one
    mixed B + P by T  the same in steps of T
    mixed B + N x P   N prompts come at once, which is N times the launches of their attention

A GPU computes a step padded to the next size that it has a graph for, a CPU in tiles. So prompts, and steps that cut them, are of
lengths that lie anywhere between such sizes, and batches of more sizes than powers of two. Each decodes over the shortest and the
longest context that fit, and over one that a load mostly has: a step is not linear in its context, and dearest in between, beside a
line through the ends. Batches whose neighbours have the longest context do without it, since filling a cache takes most of a cell's
time.

Standard output gets JSON lines: the engine (`"kind": "engine"`), then a line for each kind of step of each cell
(`"kind": "step"`) with the median and all times.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from headway_engine.bench import report
from headway_engine.bench.random_model import random_model
from headway_engine.bench.watch import watched
from headway_engine.core.limits import LimitsPatch
from headway_engine.core.request import Rejected, Request, RequestId, SamplingParams
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loaded import LoadedModel
from headway_engine.runtime.loading import load
from headway_engine.runtime.streams import TokenStream

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 192, 256, 384, 512)
NOT_LONG = frozenset({56, 72, 80, 112, 192})  # batches that are not measured over their longest context
MIXED_BATCHES = (2, 8, 24, 96)
USUAL_CONTEXT = 600  # tokens of a sequence under load: a prompt and half of an answer
CONTEXTS = (64, 256, USUAL_CONTEXT, 1024, 3072)
MIXED_CONTEXTS = (64, 256)
PROMPTS = (16, 40, 72, 110, 160, 225, 350, 450, 575, 850, 1200, 2000)
BUDGETS = (60, 120, 225, 450, 700, 1090, 1400, 2048)
TOGETHER = ((6, 225), (3, 450), (2, 850))  # prompts that come at once, and their lengths
CELL_TOKENS = {"cuda": 280_000, "cpu": 4096}
FEWEST = 3  # times that a kind of step is seen before its median counts
TEMPERATURE = 0.6


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the grid.

    Attributes:
        max_seqs, max_tokens: limits of the engine.
        max_len: of its model.
        cell_tokens: KV tokens of a cell at the most; an eighth of it is the longest prompt that is chunked.
        steps: of a decode cell.
        repeats: of each prompt.
    """

    max_seqs: int
    max_tokens: int
    max_len: int
    cell_tokens: int
    steps: int
    repeats: int

    @property
    def long(self) -> int:
        """A prompt that is computed in chunks."""
        return min(self.max_len - 8, self.cell_tokens // 8)

    def prompts(self) -> list[int]:
        """Lengths of prompts that fit into a step."""
        return [one for one in PROMPTS if one <= min(self.max_tokens, self.max_len - 8, self.cell_tokens // 4)]

    def budgets(self) -> list[int]:
        """Tokens of a step that cut the long prompt; an engine takes no fewer than it has sequences."""
        least = max(self.max_seqs, self.long / 20)
        return [one for one in BUDGETS if least <= one <= self.max_tokens and one < self.long]

    def batches(self) -> list[int]:
        """Sequences that decode."""
        return [one for one in BATCHES if one <= self.max_seqs]

    def outputs(self, batch: int, context: int) -> int:
        """Answer tokens of a decode cell's streams: the first ones decode while the others' prompts are computed."""
        return self.steps + -(-batch * context // max(1, self.max_tokens - batch)) + 2

    def fits(self, batch: int, context: int) -> bool:
        """Whether so many streams of so many prompt tokens are a cell."""
        length = context + self.outputs(batch, context)
        return length < self.max_len and batch * length <= self.cell_tokens

    def contexts(self, batch: int) -> list[int]:
        """Prompt tokens of each stream of such a batch's decode cells."""
        fitting = [context for context in CONTEXTS if self.fits(batch, context)]
        wanted = {*fitting[:1], USUAL_CONTEXT, *([] if batch in NOT_LONG else fitting[-1:])}
        return [context for context in fitting if context in wanted]

    def mixed(self) -> list[int]:
        """Sequences that decode while prompts come."""
        return [one for one in MIXED_BATCHES if one < self.max_seqs]

    def mixed_context(self, batch: int) -> int:
        """Prompt tokens of each of those."""
        return max(one for one in MIXED_CONTEXTS if one == MIXED_CONTEXTS[0] or 2 * batch * one <= self.cell_tokens)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run: streams of `context` prompt tokens; prompts of one answer token that come, in turn, when all stream.

    Attributes:
        name: see the module.
        budget: tokens of a step.
        streams: how many decode.
        context: prompt tokens of each.
        outputs: answer tokens of each; with prompts they are cut when the prompts are through.
        prompts: their lengths.
        together: how many of them come at once.
    """

    name: str
    budget: int
    streams: int = 0
    context: int = 0
    outputs: int = 0
    prompts: tuple[int, ...] = ()
    together: int = 1


def cells(plan: Plan) -> Iterator[Cell]:
    """The grid."""
    most, long = plan.max_tokens, plan.long
    for length in plan.prompts():
        yield Cell(f"prompt {length}", most, prompts=(length,) * plan.repeats)
    for budget in plan.budgets():
        yield Cell(f"chunks {long} by {budget}", budget, prompts=(long,) * max(FEWEST, plan.repeats // 2))
    for batch in plan.batches():
        for context in plan.contexts(batch):
            yield Cell(f"decode {batch} x {context}", most, batch, context, plan.outputs(batch, context))
    for number, batch in enumerate(plan.mixed()):
        # In turn every other one: time is short.
        yield from _mixed(plan, batch, plan.prompts()[number % 2 :: 2])
        yield from _crowds(plan, batch, TOGETHER[number % 2 :: 2])


def _mixed(plan: Plan, batch: int, lengths: Sequence[int]) -> Iterator[Cell]:
    context = plan.mixed_context(batch)
    room, outputs = plan.cell_tokens - batch * context, plan.max_len - context - 1
    for length in lengths:
        if batch + length <= plan.max_tokens and length <= room:
            yield Cell(f"mixed {batch} + {length}", plan.max_tokens, batch, context, outputs, (length,) * plan.repeats)
    for budget in plan.budgets():
        if batch <= budget // 2 and plan.long <= room:
            name, repeats = f"mixed {batch} + {plan.long} by {budget}", max(FEWEST, plan.repeats // 2)
            yield Cell(name, budget, batch, context, outputs, (plan.long,) * repeats)


def _crowds(plan: Plan, batch: int, crowds: Sequence[tuple[int, int]]) -> Iterator[Cell]:
    context = plan.mixed_context(batch)
    outputs = plan.max_len - context - 1
    for count, length in crowds:
        tokens = count * length
        if (
            batch + count <= plan.max_seqs
            and batch + tokens <= plan.max_tokens
            and batch * context + tokens <= plan.cell_tokens
        ):
            name, prompts = f"mixed {batch} + {count} x {length}", (length,) * (count * plan.repeats)
            yield Cell(name, plan.max_tokens, batch, context, outputs, prompts, count)


class Driver:
    """Runs cells on an engine whose steps are written to `file`."""

    def __init__(self, engine: AsyncEngine, file: Path) -> None:
        self._engine = engine
        self._steps = file.open(encoding="utf-8")
        self.ahead = bool(json.loads(self._steps.readline())["ahead"])
        self._random = random.Random(0)  # noqa: S311 - prompts, not secrets
        self._sent = 0

    async def run(self, cell: Cell) -> list[dict[str, Any]]:
        """The steps of a cell."""
        answer = await self._engine.update_limits(LimitsPatch(max_num_batched_tokens=cell.budget), 0, None)
        if isinstance(answer, Rejected):
            raise ValueError(answer.message)  # noqa: TRY004 - its type is right
        streams = [await self._submit(cell.context, cell.outputs) for _ in range(cell.streams)]
        begun = [asyncio.Event() for _ in streams]
        readers = [asyncio.create_task(_read(one, event)) for one, event in zip(streams, begun, strict=True)]
        if cell.prompts:
            for event in begun:
                await event.wait()
            for first in range(0, len(cell.prompts), cell.together):
                prompts = [await self._submit(one, 1) for one in cell.prompts[first : first + cell.together]]
                await asyncio.gather(*(_read(one, asyncio.Event()) for one in prompts))
            for stream in streams:
                stream.cancel()
        await asyncio.gather(*readers)
        await self._engine.wait_idle(None)
        return [json.loads(line) for line in self._steps]

    def close(self) -> None:
        """Read no more."""
        self._steps.close()

    async def _submit(self, prompt: int, outputs: int) -> TokenStream:
        self._sent += 1
        ids = tuple(self._random.choices(range(self._engine.model_info().vocab_size), k=prompt))
        sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=outputs, ignore_eos=True)
        request = Request(RequestId(f"r{self._sent}"), time.monotonic(), prompt_ids=ids, sampling=sampling)
        stream = await self._engine.submit(request)
        if isinstance(stream, Rejected):
            raise RuntimeError(f"the engine refused a request: {stream.message}")  # noqa: TRY004 - its type is right
        return stream


async def _read(stream: TokenStream, begun: asyncio.Event) -> None:
    async for _ in stream:
        begun.set()


def samples(cell: str, steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    """The median of each kind of step that was seen often enough; a kind is its decodes, its chunks, and the prompts that end."""
    kinds: dict[tuple[int, tuple[tuple[int, int], ...], int, bool], list[Mapping[str, Any]]] = {}
    for step in steps:
        chunks = tuple((before, tokens) for before, tokens in step["chunks"])
        kinds.setdefault((step["decodes"], chunks, step["ended"], step["apart"]), []).append(step)
    for (decodes, chunks, ended, apart), found in kinds.items():
        if len(found) >= FEWEST:
            yield {
                "kind": "step",
                "cell": cell,
                "decodes": decodes,
                "context": statistics.mean(step["context"] for step in found),
                "tokens": sum(tokens for _, tokens in chunks),
                "squares": sum(tokens * (2 * before + tokens) for before, tokens in chunks),
                "ended": ended,
                "apart": apart,
                "ms": statistics.median(step["ms"] for step in found),
                "times_ms": [round(step["ms"], 4) for step in found],
            }


async def measure(options: argparse.Namespace, file: Path) -> AsyncIterator[dict[str, object]]:
    """The lines to print."""
    setup, loader = _setup(options)
    engine = await AsyncEngine.start(setup, partial(watched, loader, file))
    driver = Driver(engine, file)
    try:
        facts, plan = engine.model_info(), _plan(options, engine)
        yield {
            "kind": "engine",
            "name": options.shape or setup.model_name,
            "kv_tokens": engine.loads().max_total_num_tokens,
            "ahead": driver.ahead,
            "dtype": facts.dtype,
            "device": facts.device,
            "threads": options.threads or 0,
            "max_seqs": plan.max_seqs,
            "max_tokens": plan.max_tokens,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **report.environment(),
        }
        await driver.run(Cell("warm up", plan.max_tokens, 2, 64, 8))
        for cell in cells(plan):
            sys.stderr.write(f"{cell.name}\n")
            for sample in samples(cell.name, await driver.run(cell)):
                yield sample
    finally:
        driver.close()
        await engine.stop()


def _plan(options: argparse.Namespace, engine: AsyncEngine) -> Plan:
    facts = engine.model_info()
    most = min(options.cell_tokens or CELL_TOKENS[facts.device], int(0.9 * engine.loads().max_total_num_tokens))
    return Plan(options.max_seqs, options.max_tokens, facts.max_model_len, most, options.steps, options.repeats)


def _setup(options: argparse.Namespace) -> tuple[EngineConfig, Callable[[EngineConfig], LoadedModel]]:
    setup = EngineConfig(
        options.model or (Path(options.shape) if options.shape else _default_model()),
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        capacity_max_num_seqs=options.max_seqs,
        capacity_max_num_batched_tokens=options.max_tokens,
        kv_cache_memory_mib=options.kv_cache_mib,
        prefix_cache=False,
    )
    return setup, partial(random_model, options.shape, options.device) if options.shape else load


def _default_model() -> Path:
    from headway_engine.bench.beside_transformers import default_model  # noqa: PLC0415 - it brings the CPU case along

    return default_model()


async def _print_all(options: argparse.Namespace, file: Path) -> None:
    async for line in measure(options, file):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """Measure; 1 when the model cannot be loaded."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(_print_all(options, Path(folder) / "steps.jsonl"))
        except (ModelLoadError, ValueError) as error:
            sys.stderr.write(f"headway bench calibrate: {error}\n")
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headway bench calibrate")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shape")
    which.add_argument("--model", type=Path)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", default="auto")
    for name, default in (("max-seqs", 256), ("max-tokens", 2048), ("steps", 24), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=_count, default=default)
    for name in ("threads", "kv-cache-mib", "cell-tokens"):
        parser.add_argument(f"--{name}", type=_count)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
