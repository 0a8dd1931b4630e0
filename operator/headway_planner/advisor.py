"""Which GPU type and tensor parallelism serve a load at the least cost.

A replica takes at most 0.8 of what `capacity.sustained` says. p95 TTFT = own prefill + one step + 3 times the mean wait of
an M/D/1 queue for prefill (an exponential tail); p95 ITL is a step with a prompt's chunk once more than 5 % of steps have one.
"""

import math
from dataclasses import dataclass, replace

from headway_planner.capacity import Mix, prefill_s, sustained
from headway_planner.model import BatchLimits
from headway_planner.roofline import Gpu, Shape, reduce_ms, step_model
from headway_planner.steps import StepModel

LIMITS = BatchLimits(256, 2048)
_LOAD = 0.8


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests per second of mean lengths, their targets, and the prompt at the 95th percentile (0: the mean)."""

    rate: float
    mix: Mix
    ttft_ms: float
    itl_ms: float
    long_input: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs of one replica; `interconnect` is nvlink or pcie, `price` USD per GPU-hour."""

    gpu: Gpu
    tp: int
    interconnect: str = "nvlink"
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration. `replicas` is 0 when it cannot serve the demand; `binds` says why."""

    gpu: str
    tp: int
    replicas: int
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    tokens_per_s: float | None
    usd_per_million: float | None
    binds: str


def assess(shape: Shape, hardware: Hardware, demand: Demand) -> Row:
    """One row of the table."""
    gpu, tp, interconnect = hardware.gpu, hardware.tp, hardware.interconnect
    if shape.kv_heads % tp:
        return Row(gpu.name, tp, 0, None, None, None, None, f"{shape.kv_heads} KV heads do not split")
    model = replace(step_model(shape, gpu, tp, interconnect), name=gpu.name)
    return _assessed(model, reduce_ms(shape, gpu, tp, interconnect), hardware.price, demand)


def assess_engine(model: StepModel, demand: Demand, price: float | None) -> Row:
    """One row of the table for an engine that was measured; its all-reduces are inside of its coefficients."""
    return _assessed(model, (0.0, 0.0), price, demand)


def _assessed(model: StepModel, comm: tuple[float, float], price: float | None, demand: Demand) -> Row:
    """The row that bears the model's name."""
    name, tp, mix = model.name, model.gpus, demand.mix
    if model.kv_tokens < mix.inputs + mix.outputs:
        return Row(name, tp, 0, None, None, None, None, "does not fit")
    own = model.prefill_ms(demand.long_input or round(mix.inputs), LIMITS.tokens)
    most = sustained(model, mix, LIMITS, demand.itl_ms)
    if own > demand.ttft_ms or most.itl_ms > demand.itl_ms:
        over = f"own prefill {own:.0f} ms > {demand.ttft_ms:.0f} ms" if own > demand.ttft_ms else "ITL over target"
        return Row(name, tp, 0, own, most.itl_ms, None, None, f"infeasible: {over}")
    replicas = max(1, math.ceil(demand.rate / (_LOAD * most.rate)))
    ttft, itl = _tails(model, demand, replicas)
    while ttft > demand.ttft_ms and replicas * most.rate < 100 * demand.rate:
        replicas += 1
        ttft, itl = _tails(model, demand, replicas)
    if ttft > demand.ttft_ms:
        why = f"infeasible: p95 TTFT {ttft:.0f} ms > {demand.ttft_ms:.0f} ms"
        return Row(name, tp, 0, ttft, itl, None, None, why)
    tokens = demand.rate * mix.outputs
    cost = None if price is None else price * tp * replicas / (3600 * tokens) * 1e6
    binds = _binds(model, mix, most.batch, comm)
    return Row(name, tp, replicas, ttft, itl, tokens, cost, binds)


def _tails(model: StepModel, demand: Demand, replicas: int) -> tuple[float, float]:
    rate, mix = demand.rate / replicas, demand.mix
    prefill = prefill_s(model, mix, LIMITS.tokens)
    busy = min(0.99, rate * prefill)
    batch = 1.0
    for _ in range(30):  # the batch that the rate keeps, a fixed point
        step = model.decode_ms(math.ceil(batch), batch * (mix.inputs + mix.outputs / 2))
        batch = min(LIMITS.seqs, max(1.0, rate * mix.outputs * step / 1000 / (1 - busy)))
    own = model.prefill_ms(demand.long_input or round(mix.inputs), LIMITS.tokens)
    chunk = model.chunk_ms(math.ceil(batch), min(LIMITS.tokens, round(mix.inputs)))
    mixed = rate * math.ceil(mix.inputs / LIMITS.tokens) * step / 1000 > 0.05
    wait = 3 * 1000 * prefill * busy / (2 * (1 - busy))
    return own + step + wait, step + (chunk if mixed else 0.0)


def _binds(model: StepModel, mix: Mix, batch: float, comm: tuple[float, float]) -> str:
    if batch >= int(0.9 * model.kv_tokens / (mix.inputs + mix.outputs)):
        return "memory"
    reads = model.a1_ms + model.att_dec_ctx_ms * batch * (mix.inputs + mix.outputs / 2)
    compute = model.b2_ms * batch * mix.inputs / max(1.0, mix.outputs)
    parts = {"bandwidth": reads, "compute": compute, "communication": comm[0] + comm[1] * batch}
    return max(parts, key=lambda name: parts[name])
