"""Each coefficient of the advisor: its value, where it is from, and how far it is off where that is known."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headway_cli.simulate import engines
from headway_planner import roofline
from headway_planner.measured import BATCHES, CONTEXT, PROMPTS, Kind, errors
from headway_planner.roofline import GPUS, SHAPES, Gpu, reduce_ms, step_model

_SHEET = "data sheet, nominal"
# Engines of the kernel tables by the shape and parallelism that the roofline computes.
TABLES = {("llama8b", 1): "llama8b-tp1", ("llama8b", 2): "llama8b-tp2", ("llama70b", 4): "llama70b-tp4", ("llama70b", 8): "llama70b-tp8"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One number of the step model. `gpu`: all, when it holds for every type."""

    gpu: str
    coefficient: str
    value: float
    unit: str
    source: str
    error: str


def coefficients() -> list[Coefficient]:
    """Every coefficient, the GPU types' first."""
    return [*(one for gpu in GPUS.values() for one in _of(gpu)), *_common()]


def _of(gpu: Gpu) -> Iterator[Coefficient]:
    decode, prefill = _error(gpu.name, Kind.DECODE), _error(gpu.name, Kind.PREFILL)
    yield Coefficient(gpu.name, "memory", gpu.memory / 1e9, "GB", _SHEET, "none")
    yield Coefficient(gpu.name, "bandwidth", gpu.bandwidth / 1e12, "TB/s", _SHEET, "see the shares")
    yield Coefficient(gpu.name, "flops", gpu.flops / 1e12, "TFLOP/s, bf16", _SHEET, "see the shares")
    yield Coefficient(gpu.name, "weight_share", gpu.weight_share, "of bandwidth", gpu.source, decode)
    yield Coefficient(gpu.name, "kv_share", gpu.kv_share, "of bandwidth", gpu.source, decode)
    yield Coefficient(gpu.name, "flops_share", gpu.flops_share, "of flops", gpu.source, prefill)
    if gpu.nvlink:
        yield Coefficient(gpu.name, "nvlink", gpu.nvlink / 1e9, "GB/s, effective", *_nvlink(gpu))


def _common() -> Iterator[Coefficient]:
    fit = "fit to vLLM 0.24, llama8b, one H100 and one H200"
    inside = "inside the errors of the shares"
    assumed = "assumed"
    for name, value, unit, source, error in (
        ("host", roofline.HOST_MS, "ms a step", fit, inside),
        ("layer", roofline.LAYER_MS, "ms a layer and step", fit, inside),
        ("sequence", 1000 * roofline.SEQUENCE_MS, "us a layer and token", fit, inside),
        ("first_token", roofline.FIRST_TOKEN_MS, "ms a request", fit, inside),
        ("prefill_attention_share", roofline.PREFILL_ATTENTION_SHARE, "of flops", assumed, "unknown; small below 8k tokens"),
        ("nvlink_latency", 1000 * roofline.NVLINK_LATENCY_MS, "us an all-reduce", "fit to two H200", _reduce_error()),
        ("pcie", roofline.PCIE_SPEED / 1e9, "GB/s, effective", assumed, "unknown"),
        ("pcie_latency", 1000 * roofline.PCIE_LATENCY_MS, "us an all-reduce", assumed, "unknown"),
        ("reserve", roofline.RESERVE_BYTES / 1e9, "GB a GPU", "rule of thumb beside 0.9 of memory", "unknown"),
    ):  # fmt: skip
        yield Coefficient("all", name, value, unit, source, error)


def _nvlink(gpu: Gpu) -> tuple[str, str]:
    if gpu.name == "A100":
        return "two thirds of an H100's, as the data sheets say", "unknown"
    return "fit to vLLM 0.24 on two H200", f"steps of TP 2: {span(errors(Kind.DECODE, 'H200', 2))}; {_reduce_error()}"


def _reduce_error() -> str:
    return f"four H100, published: {span(errors(Kind.ALL_REDUCE, 'H100', 4))}"


def _error(gpu: str, kind: Kind) -> str:
    measured = errors(kind, gpu, 1)
    known = [f"{kind.value}, measured: {span(measured)}"] if measured else []
    known += [f"{kind.value}, kernel tables of {name}: {span(shares)}" for name, shares in _against_tables(gpu, kind)]
    return "; ".join(known) or "unknown"


def _against_tables(gpu: str, kind: Kind) -> Iterator[tuple[str, list[float]]]:
    """Computed over the kernel tables' less 1, by engine, without all-reduces, which the tables leave out."""
    for (name, tp), engine in TABLES.items() if gpu in ("H100", "A100") else ():
        table, ours = (
            engines.load(engines.BUILT_IN, f"{gpu.lower()}-{engine}"),
            step_model(SHAPES[name], GPUS[gpu], tp, "nvlink"),
        )
        constant, token = reduce_ms(SHAPES[name], GPUS[gpu], tp, "nvlink")
        if kind is Kind.DECODE:
            pairs = [(ours.decode_ms(n, CONTEXT * n), table.decode_ms(n, CONTEXT * n), n) for n in BATCHES]
        else:
            pairs = [(ours.prefill_ms(n, 8192), table.prefill_ms(n, 8192), n) for n in PROMPTS]
        yield engine, [(mine - constant - token * size) / theirs - 1 for mine, theirs, size in pairs]


def span(shares: Iterable[float]) -> str:
    """The smallest and the largest, in percent."""
    found = list(shares)
    return f"{100 * min(found):+.1f} to {100 * max(found):+.1f} %"
