"""Case `prefill`: time to the only token of one prompt, on a GPU, with random weights of a named shape. Median of seven."""

import argparse
import random

from headway_engine.bench.peers import add_shape_argument, compared
from headway_engine.bench.report import Figure, Report, of_samples
from headway_engine.bench.shapes import ShapeEngine, Work, each_shape

DESCRIPTION = "time of one prompt of 512, 2048 and 3900 tokens with one token out, on a GPU"
LENGTHS = (512, 2048, 3900)
REPETITIONS = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of this case."""
    add_shape_argument(parser)


def run(options: argparse.Namespace) -> Report:
    """Measure."""
    figures = each_shape(options.shapes, measure)
    return Report("prefill", {"shapes": options.shapes, "repetitions": REPETITIONS}, figures)


def measure(engine: ShapeEngine, name: str) -> list[Figure]:
    """The figures of one shape."""
    figures = []
    for length in LENGTHS:
        generator = random.Random(length)  # noqa: S311 - prompts, not secrets
        prompts = [engine.prompt(length, generator) for _ in range(REPETITIONS + 2)]
        samples = [engine.generate([Work(prompt, 1)]) * 1000 for prompt in prompts][2:]
        latency = of_samples(f"{name} prefill {length}", "ms", samples)
        figures += compared(latency, name, "prefill", str(length))
    return figures
