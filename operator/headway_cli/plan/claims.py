"""What is commonly claimed of tensor parallelism, GPU types and batches, beside what the step models say.

Two models speak: the advisor's roofline, and fits to published kernel tables (`headway simulate`'s own engines), to which the
roofline's all-reduces are added. Where they differ from the claim, the table says by how much.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from headway_cli.plan.sources import TABLES
from headway_cli.simulate import engines
from headway_planner.measured import CONTEXT
from headway_planner.roofline import GPUS, SHAPES, Gpu, Shape, reduce_ms, step_model

ROOFLINE, KERNELS = "roofline", "kernel tables"


@dataclass(frozen=True, slots=True)
class Finding:
    """One case of a claim. `low`, `high`: what is said; `computed`: what the model `by` says."""

    claim: str
    low: float
    high: float
    unit: str
    case: str
    by: str
    computed: float

    @property
    def differs(self) -> float:
        """How far `computed` is outside of what is said, in `unit`; 0 inside, negative below."""
        return min(0.0, self.computed - self.low) + max(0.0, self.computed - self.high)


def findings() -> list[Finding]:
    """Every case of every claim. "About" is taken as two points of percent to either side."""
    return [*_doubling(), *_tiers(), *_costs(), *_interconnect(), *_batching(), *_fits()]


def _step_ms(by: str, gpu: str, name: str, tp: int, batch: int) -> float:
    """A decode step at a context of 576 tokens."""
    shape, kind = SHAPES[name], GPUS[gpu]
    if by == ROOFLINE:
        return step_model(shape, kind, tp, "nvlink").decode_ms(batch, CONTEXT * batch)
    constant, token = reduce_ms(shape, kind, tp, "nvlink")
    table = engines.load(engines.BUILT_IN, f"{gpu.lower()}-{TABLES[name, tp]}")
    return table.decode_ms(batch, CONTEXT * batch) + constant + token * batch


def _doubling() -> Iterator[Finding]:
    for claim, said, batches in (
        ("TP 2 to 4 at small batch: less latency", (10.0, 14.0), (1, 4)),
        ("TP 2 to 4 at batch 16 and more: less latency", (31.0, 35.0), (16, 64)),
    ):
        for batch in batches:
            for by, gpu, name, tp in (
                (ROOFLINE, "H100", "llama8b", 2),
                (ROOFLINE, "H200", "llama70b", 2),
                (KERNELS, "H100", "llama8b", 1),
                (KERNELS, "H100", "llama70b", 4),
            ):
                saved = 1 - _step_ms(by, gpu, name, 2 * tp, batch) / _step_ms(by, gpu, name, tp, batch)
                yield Finding(claim, *said, "%", f"{name}, {gpu}, TP {tp} to {2 * tp}, batch {batch}", by, 100 * saved)


def _tiers() -> Iterator[Finding]:
    claim = "H100 against A100: less time a token"
    for batch in (1, 16, 64):
        for by, name, tp in ((ROOFLINE, "llama8b", 1), (KERNELS, "llama8b", 1), (KERNELS, "llama70b", 4)):
            saved = 1 - _step_ms(by, "H100", name, tp, batch) / _step_ms(by, "A100", name, tp, batch)
            yield Finding(claim, 35.0, 45.0, "%", f"{name}, TP {tp}, batch {batch}", by, 100 * saved)


def _costs() -> Iterator[Finding]:
    claim = "H100 against A100: a token costs less below this ratio of prices"
    decode = [_step_ms(ROOFLINE, gpu, "llama8b", 1, 64) for gpu in ("A100", "H100")]
    prefill = [step_model(SHAPES["llama8b"], GPUS[gpu], 1, "nvlink").prefill_ms(2048, 8192) for gpu in ("A100", "H100")]
    for case, (older, newer) in (("decode, batch 64", decode), ("prompt of 2,048 tokens", prefill)):
        yield Finding(claim, 1.0, float("inf"), "x", f"llama8b, {case}", ROOFLINE, older / newer)


def _interconnect() -> Iterator[Finding]:
    claim = "NVLink against PCIe: less communication"
    for name, tp in (("llama8b", 2), ("llama70b", 4)):
        for batch in (1, 64):
            nvlink, pcie = (_reduces(SHAPES[name], GPUS["H100"], tp, via, batch) for via in ("nvlink", "pcie"))
            yield Finding(
                claim, 20.0, 30.0, "%", f"{name}, TP {tp}, batch {batch}", ROOFLINE, 100 * (1 - nvlink / pcie)
            )


def _reduces(shape: Shape, gpu: Gpu, tp: int, via: str, batch: int) -> float:
    constant, token = reduce_ms(shape, gpu, tp, via)
    return constant + token * batch


def _batching() -> Iterator[Finding]:
    for by in (ROOFLINE, KERNELS):
        slower = _step_ms(by, "A100", "llama8b", 1, 64) / _step_ms(by, "A100", "llama8b", 1, 1)
        case = "llama8b, A100, decode"
        yield Finding("batch 1 to 64: throughput", 14.0, 14.0, "x", case, by, 64 / slower)
        yield Finding("batch 1 to 64: latency", 4.0, 4.0, "x", case, by, slower)


def _fits() -> Iterator[Finding]:
    for name in ("A100", "L40S"):
        room = step_model(SHAPES["llama13b"], GPUS[name], 1, "pcie").kv_tokens
        yield Finding(
            "a 13B fits one GPU: tokens of KV left", 1.0, float("inf"), "tokens", f"llama13b, {name}", ROOFLINE, room
        )
    for gpu in GPUS.values():
        room = step_model(SHAPES["llama70b"], gpu, 1, "pcie").kv_tokens
        yield Finding(
            "70B needs TP: tokens of KV on one GPU", 0.0, 0.0, "tokens", f"llama70b, {gpu.name}", ROOFLINE, room
        )
