"""Our figures beside those of the comparison engine on the same kind of GPU, and beside the goals: ratios, above 1 is better.

The comparison is measured elsewhere and kept in `benchmarks/peers.json`: by GPU name, shape, case and parameter. A GPU that
is not in the file has no ratios.
"""

import argparse
import json
from pathlib import Path
from typing import cast

import torch

from headway_engine.bench.report import Figure
from headway_engine.bench.shapes import SHAPES

PEERS_FILE = Path("benchmarks/peers.json")


def add_shape_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that all GPU cases share."""
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="model shapes to measure (all)"
    )


def compared(found: Figure, shape: str, case: str, parameter: str) -> list[Figure]:
    """The figure, its ratio to the comparison engine, whose goal is to be ahead, and its ratio to our own goal."""
    cell = shape, case, parameter
    return [found, *_ratio("peers", "over vLLM", found, cell), *_ratio("goals", "over the goal", found, cell)]


def _ratio(section: str, label: str, found: Figure, cell: tuple[str, str, str]) -> list[Figure]:
    value = _figure(section, cell)
    if value is None:
        return []
    higher_is_better = found.unit == "tok/s"
    ratios = [sample / value if higher_is_better else value / sample for sample in (found.value, *found.samples)]
    return [Figure(f"{found.name}, {label} ({value:g} {found.unit})", "x", ratios[0], tuple(ratios[1:]), goal=1.0)]


def _figure(section: str, cell: tuple[str, str, str]) -> float | None:
    try:
        data = json.loads(PEERS_FILE.read_text())
    except FileNotFoundError:
        return None
    node: object = data[section].get(torch.cuda.get_device_name())
    for key in cell:
        if key and isinstance(node, dict):
            node = cast("dict[str, object]", node).get(key)
    return float(node) if isinstance(node, int | float) else None
