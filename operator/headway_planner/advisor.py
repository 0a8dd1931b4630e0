"""Which GPU type and tensor parallelism serve a load of one or several classes at the least cost.

A replica takes at most 0.8 of what `capacity.sustained` says for the mix of all classes and the strictest time between tokens.
p95 TTFT of a class = own prefill beside the decoding batch + the step under way (its p95) + 3 times its mean wait for prefill
(an exponential tail), in an M/G/1 queue that serves better classes first (Cobham): with R the mean rest of the prompt that is
under way, and s(c) the share of the time that prompts of class c and better ones take, the wait is R / ((1 - s(c - 1)) * (1 - s(c))).
The router sends prompts by work, so with several replicas the wait is shorter: the estimate is on the safe side. A prompt takes
its prefill, and of the decodes in its steps as much as it fills of those. `trial.py` tries what is nearly full.
p95 ITL is a step with a prompt's chunk once more than 5 % of the steps have one. Replicas are added until each class keeps its
target, and until two standard deviations (Poisson) more sequences than the mean find a slot and room in the KV cache.

Batch work with a deadline takes what the others leave, as in the control loop (`deferred.py`): it asks for no room of its own for
bursts and for no first token. The fleet is the larger of what the others need, batch prompts in their way, and of all work
in the mean at the control loop's utilization; so a removal that the loop would take back is not planned.
"""

import math
from collections.abc import Mapping

from headway_planner.capacity import Mix, prefill_s, sustained
from headway_planner.model import BatchLimits
from headway_planner.offer import ClassRow, Demand, Engine, Hardware, Row, Slack
from headway_planner.roofline import Shape, link, reduce_ms, step_model
from headway_planner.staffing import UTILIZATION
from headway_planner.steps import StepModel

LIMITS = BatchLimits(256, 2048)
_LOAD = 0.8
_TAIL = 3.0  # p95 over mean of an exponential distribution
_SPARE = 2.0  # standard deviations of the sequences that find room
_RARE = 0.05  # share of the steps whose time no p95 shows


def computed(shape: Shape, hardware: Hardware) -> Engine:
    """The engine that a shape makes of some GPUs."""
    gpu, tp, via = hardware.gpu, hardware.tp, link(hardware.gpu, hardware.interconnect)
    model, reduces = step_model(shape, gpu, tp, via), reduce_ms(shape, gpu, tp, via)
    return Engine(gpu.name, model, via, reduces, hardware.price, shape.kv_heads)


def assess(engine: Engine, demand: Demand, least: int = 1) -> Row:
    """One row of the table, of at least so many replicas."""
    name, model, via, mix = engine.name, engine.model, engine.interconnect, demand.mix
    tp = model.gpus
    if engine.kv_heads % tp:
        return Row(name, tp, via, 0, f"{engine.kv_heads} KV heads do not split")
    if model.kv_tokens < max(one.mix.inputs + one.mix.outputs for one in demand.classes):
        return Row(name, tp, via, 0, "does not fit", kv_tokens=model.kv_tokens)
    most = sustained(model, mix, LIMITS, demand.itl_ms)
    why, own = _infeasible(model, demand, most.itl_ms)
    if why:
        return Row(name, tp, via, 0, why, own, most.itl_ms, kv_tokens=model.kv_tokens)
    fewest, slack = _fewest(model, demand)
    replicas = max(least, fewest)
    classes, itl, _ = _tails(model, demand, replicas)
    worst = max(classes, key=lambda one: one.lateness)
    if worst.lateness > 1:
        why = f"infeasible: p95 TTFT {worst.ttft_p95_ms:.0f} ms > {worst.ttft_target_ms:.0f} ms ({worst.name})"
        return Row(name, tp, via, 0, why, worst.ttft_p95_ms, itl, kv_tokens=model.kv_tokens, classes=classes)
    hourly = None if engine.price is None else engine.price * tp * replicas
    parts = _parts(model, mix, most.batch, engine.reduces)
    return Row(
        gpu=name,
        tp=tp,
        interconnect=via,
        replicas=replicas,
        binds=_binds(model, mix, most.batch, parts),
        ttft_p95_ms=worst.ttft_p95_ms,
        itl_p95_ms=itl,
        tokens_per_s=demand.output_rate,
        usd_per_hour=hourly,
        usd_per_million=None if hourly is None else hourly / (3600 * demand.output_rate) * 1e6,
        gpus=tp * replicas,
        kv_tokens=model.kv_tokens,
        batch=most.batch,
        parts_ms=parts,
        classes=classes,
        slack=slack,
    )


def _infeasible(model: StepModel, demand: Demand, itl_ms: float) -> tuple[str, float | None]:
    """Why no count of replicas serves the demand ("": one may), and the prefill that is too long."""
    for one in demand.classes:
        own = model.prefill_ms(one.longest, LIMITS.tokens)
        if one.deadline_s < math.inf:
            whole_s = (own + one.mix.outputs * itl_ms) / 1000
            if whole_s > one.deadline_s:
                return f"infeasible: an answer takes {whole_s:.0f} s > {one.deadline_s:.0f} s ({one.name})", None
        elif own > one.ttft_ms:
            return f"infeasible: own prefill {own:.0f} ms > {one.ttft_ms:.0f} ms ({one.name})", own
    return ("infeasible: ITL over target" if itl_ms > demand.itl_ms else ""), None


def _fewest(model: StepModel, demand: Demand) -> tuple[int, Slack | None]:
    """The least count that serves the demand, as far as a count does; and how what may wait shares it."""
    online = demand.online
    replicas = _online_replicas(model, online, online) if online is not None else 1
    if not demand.waiting:
        return replicas, None
    parts = [Demand((one,)) for one in demand.waiting]
    waiting = sum(_mean_engines(model, part, demand.itl_ms) for part in parts)
    steady = _mean_engines(model, online, demand.itl_ms) if online is not None else 0.0
    slack = Slack(waiting, steady, replicas if online is not None else 0)
    replicas = max(replicas, math.ceil((waiting + steady) / UTILIZATION))
    return (replicas if online is None else _online_replicas(model, online, demand, replicas)), slack


def _mean_engines(model: StepModel, demand: Demand, itl_ms: float) -> float:
    return demand.rate / sustained(model, demand.mix, LIMITS, itl_ms).rate


def _online_replicas(model: StepModel, online: Demand, beside: Demand, least: int = 1) -> int:
    """The least count from `least` on that keeps the targets of these classes beside all of those, or the most that is tried."""
    most = sustained(model, online.mix, LIMITS, beside.itl_ms)
    slots = _slots(model, online.mix)
    share = online.output_rate / beside.output_rate
    replicas = max(least, math.ceil(online.rate / (_LOAD * most.rate)))
    # A trickle beside much work that waits needs many times the replicas that its own rate does.
    bound = max(2 * replicas, math.ceil(100 * online.rate / most.rate))
    while replicas < bound:
        classes, _, running = _tails(model, beside, replicas)
        running *= share
        if max(one.lateness for one in classes) <= 1 and running + _SPARE * math.sqrt(running) <= slots:
            break
        replicas += 1
    return replicas


def _slots(model: StepModel, mix: Mix) -> int:
    """Sequences that one replica runs at once; as `sustained` has it."""
    return min(LIMITS.seqs, max(1, int(0.9 * model.kv_tokens / max(mix.held, mix.inputs + mix.outputs))))


def _tails(model: StepModel, demand: Demand, replicas: int) -> tuple[tuple[ClassRow, ...], float, float]:
    """p95 TTFT of each class, p95 ITL, and the mean of the sequences of a replica, with so many replicas."""
    mix = demand.mix
    prefills = [(one.rate / replicas, prefill_s(model, one.mix, LIMITS.tokens)) for one in demand.classes]
    busy = min(0.99, sum(rate * prefill for rate, prefill in prefills))
    batch = running = 1.0
    for _ in range(30):  # the batch that the rate keeps, a fixed point
        step = model.decode_ms(math.ceil(batch), batch * mix.context)
        running = demand.output_rate / replicas * step / 1000 / (1 - busy)
        batch = min(LIMITS.seqs, max(1.0, running))
    chunk = _common_chunk(demand, replicas, step / 1000 / (1 - busy))
    itl = step + (model.chunk_ms(math.ceil(batch), chunk) + model.prompt_end_ms if chunk else 0.0)
    front = model.front_ms(math.ceil(batch)) - model.front_ms(0)  # `prefill_ms` has that of an idle engine
    filled = [one.mix.inputs / LIMITS.tokens * step / 1000 for one in demand.classes]
    prompts = [(rate, prefill + decodes) for (rate, prefill), decodes in zip(prefills, filled, strict=True)]
    rest_ms = 1000 * sum(rate * prompt_s**2 for rate, prompt_s in prompts) / 2
    rows, better, share = [], 0.0, 0.0
    for one, (rate, prompt_s) in zip(demand.classes, prompts, strict=True):
        better, share = share, min(0.99, share + rate * prompt_s)
        wait = _TAIL * rest_ms / ((1 - better) * (1 - share))
        beside = math.ceil(one.longest / LIMITS.tokens) * (step - model.decode_ms(0, 0))
        ttft = model.prefill_ms(one.longest, LIMITS.tokens) + beside + itl + wait + front
        seen = ttft if one.deadline_s == math.inf else None
        rows.append(
            ClassRow(one.name, one.rate, one.mix.inputs, one.mix.outputs, seen, one.ttft_ms, one.itl_ms, one.deadline_s)
        )
    return tuple(rows), itl, running


def _common_chunk(demand: Demand, replicas: int, mean_step_s: float) -> int:
    """The largest chunk of a prompt that more than 5 % of the steps have, with larger ones; 0 when fewer have any."""
    seen = 0.0
    for one in sorted(demand.classes, key=lambda one: -one.mix.inputs):
        seen += one.rate / replicas * math.ceil(one.mix.inputs / LIMITS.tokens) * mean_step_s
        if seen > _RARE:
            return min(LIMITS.tokens, round(one.mix.inputs))
    return 0


def _parts(model: StepModel, mix: Mix, batch: float, comm: tuple[float, float]) -> dict[str, float]:
    """Milliseconds of a step, a step's part of the prompts included."""
    return {
        "bandwidth": model.a1_ms + model.att_dec_ctx_ms * batch * mix.context,
        "compute": model.b2_ms * batch * mix.inputs / max(1.0, mix.outputs),
        "communication": comm[0] + comm[1] * batch,
        "launches": model.host_ms - comm[0],
    }


def _binds(model: StepModel, mix: Mix, batch: float, parts: Mapping[str, float]) -> str:
    if batch >= _slots(model, mix) < LIMITS.seqs:
        return "memory"
    return max((name for name in parts if name != "launches"), key=lambda name: parts[name])
