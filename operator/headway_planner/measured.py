"""Points that the roofline's shares were fitted to, or are held against: where its errors come from.

Steps and prompts: vLLM 0.24, llama8b in bf16, context 576, measured on one H100, one H200 and two H200. All-reduces: custom
kernel, four H100, published in vllm-project/vllm pull request 24532; nothing was fitted to them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from headway_planner.roofline import GPUS, SHAPES, all_reduce_ms, step_model

CONTEXT = 576  # tokens of KV of each sequence
BATCHES, PROMPTS = (1, 8, 64, 256), (512, 2048, 3900)


class Kind(StrEnum):
    """What was measured."""

    DECODE = "decode"  # a step; size: sequences
    PREFILL = "prefill"  # the first token of a prompt alone; size: tokens
    ALL_REDUCE = "all-reduce"  # size: bytes


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    kind: Kind
    gpu: str
    tp: int
    size: int
    measured_ms: float


def _points(kind: Kind, sizes: Iterable[int], gpu: str, tp: int, measured: Iterable[float]) -> tuple[Point, ...]:
    return tuple(Point(kind, gpu, tp, size, value) for size, value in zip(sizes, measured, strict=True))


POINTS = (
    *_points(Kind.DECODE, BATCHES, "H200", 1, (4.935, 5.219, 6.969, 14.328)),
    *_points(Kind.DECODE, BATCHES, "H100", 1, (6.55, 6.91, 8.98, 15.80)),
    *_points(Kind.DECODE, BATCHES, "H200", 2, (3.50, 3.66, 4.67, 9.06)),
    *_points(Kind.PREFILL, PROMPTS, "H200", 1, (14.43, 51.41, 98.14)),
    *_points(Kind.PREFILL, PROMPTS, "H100", 1, (16.8, 53.3, 101.3)),
    *_points(Kind.PREFILL, PROMPTS, "H200", 2, (12.5, 35.1, 60.7)),
    *_points(Kind.ALL_REDUCE, (1 << 19, 1 << 20, 1 << 22), "H100", 4, (0.010, 0.014, 0.038)),
)


def computed_ms(point: Point) -> float:
    """What the roofline says for a point."""
    gpu = GPUS[point.gpu]
    model = step_model(SHAPES["llama8b"], gpu, point.tp, "nvlink")
    say: dict[Kind, Callable[[], float]] = {
        Kind.DECODE: lambda: model.decode_ms(point.size, CONTEXT * point.size),
        Kind.PREFILL: lambda: model.prefill_ms(point.size, 8192),
        Kind.ALL_REDUCE: lambda: all_reduce_ms(gpu, point.tp, "nvlink", point.size),
    }
    return say[point.kind]()


def errors(kind: Kind, gpu: str, tp: int) -> tuple[float, ...]:
    """Computed over measured less 1, at every point of that kind; () where nothing was measured."""
    found = (point for point in POINTS if (point.kind, point.gpu, point.tp) == (kind, gpu, tp))
    return tuple(computed_ms(point) / point.measured_ms - 1 for point in found)
