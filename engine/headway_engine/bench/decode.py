"""Case `decode`: inter-token latency of b sequences that run together, on a GPU, with random weights of a named shape.

    ITL = (time for 129 tokens - time for 1 token) / 128      b prompts of 512 tokens, submitted at once

The difference leaves out the prompts; it holds everything that a further token costs, the scheduler's work included.
"""

import argparse
import random
from functools import partial

from headway_engine.bench.peers import add_shape_argument, compared
from headway_engine.bench.report import Figure, Report, of_samples
from headway_engine.bench.shapes import ShapeEngine, Work, each_shape

DESCRIPTION = "inter-token latency on a GPU at batch 1, 8, 64 and 256, prompts of 512 tokens"
PROMPT_TOKENS, LONG, SHORT = 512, 129, 1
BATCHES = (1, 8, 64, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of this case."""
    add_shape_argument(parser)
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="times to measure each batch (3)")


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    figures = each_shape(options.shapes, partial(measure, repetitions=options.repetitions))
    return Report(
        "decode",
        {"shapes": options.shapes, "prompt": PROMPT_TOKENS, "repetitions": options.repetitions},
        figures,
    )


def measure(engine: ShapeEngine, name: str, repetitions: int) -> list[Figure]:
    """The figures of one shape."""
    figures = []
    for batch in BATCHES:
        generator = random.Random(batch)  # noqa: S311 - prompts, not secrets
        prompts = [engine.prompt(PROMPT_TOKENS, generator) for _ in range(batch)]
        samples = [_itl_ms(engine, prompts) for _ in range(repetitions + 1)][1:]
        latency = of_samples(f"{name} decode b={batch}", "ms", samples)
        figures += compared(latency, name, "decode", str(batch))
    return figures


def _itl_ms(engine: ShapeEngine, prompts: list[tuple[int, ...]]) -> float:
    short = engine.generate([Work(prompt, SHORT) for prompt in prompts])
    long = engine.generate([Work(prompt, LONG) for prompt in prompts])
    return (long - short) / (LONG - SHORT) * 1000
