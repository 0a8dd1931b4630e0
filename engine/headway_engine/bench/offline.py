"""Case `offline256`: output tokens per second of 256 requests of mixed lengths, submitted at once, on a GPU.

Input and output lengths are uniform in [100, 1024], all inputs drawn before all outputs, from `random.Random(0)`. The best
of two runs after a warm-up of 8 requests (128 in, 16 out), as the comparison was measured.
"""

import argparse
import random

from headway_engine.bench.peers import add_shape_argument, compared
from headway_engine.bench.report import Figure, Report
from headway_engine.bench.shapes import ShapeEngine, Work, each_shape

DESCRIPTION = "output tokens/s of 256 requests, 100 to 1024 tokens in and out, on a GPU"
REQUESTS, SHORTEST, LONGEST = 256, 100, 1024
RUNS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of this case."""
    add_shape_argument(parser)


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    figures = each_shape(options.shapes, measure)
    return Report("offline256", {"shapes": options.shapes, "requests": REQUESTS, "runs": RUNS}, figures)


def lengths() -> list[tuple[int, int]]:
    """Input and output length of each request."""
    generator = random.Random(0)  # noqa: S311 - the workload's definition
    inputs = [generator.randint(SHORTEST, LONGEST) for _ in range(REQUESTS)]
    outputs = [generator.randint(SHORTEST, LONGEST) for _ in range(REQUESTS)]
    return list(zip(inputs, outputs, strict=True))


def measure(engine: ShapeEngine, name: str) -> list[Figure]:
    """The figures of one shape."""
    generator = random.Random(1)  # noqa: S311 - prompts, not secrets
    engine.generate([Work(engine.prompt(128, generator), 16) for _ in range(8)])
    work = [Work(engine.prompt(prompt, generator), output) for prompt, output in lengths()]
    tokens = sum(item.output_tokens for item in work)
    samples = tuple(tokens / engine.generate(work) for _ in range(RUNS))
    rate = Figure(f"{name} offline256", "tok/s", max(samples), samples)
    return compared(rate, name, "offline256", "")
