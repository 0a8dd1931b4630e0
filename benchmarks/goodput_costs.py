"""What a step costs on the engine at hand: least squares over what it counted while it answered.

Model and fit are the operator's (`headway_planner.identify`), without what the operator adds for caution. Requests that come
all at once are prefilled in large steps, and those that come one by one beside decodes in small ones, which cost something
else a token. So bursts of growing size give a first estimate, and with it a ramp of all mixes up to what it says is sustained.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import goodput_traffic as traffic
from goodput_traffic import Phase
from grpc import aio

from headway_cli.bench.load import LoadClient, Share
from headway_cli.bench.workload import Arrival
from headway_planner.identify import MOST_ADDED, Fit, LearntSteps, StepsDone, learn, learnt
from headway_planner.model import BatchLimits
from headway_rpc import EngineControlStub, pb

if TYPE_CHECKING:
    from headway_rpc.engine_pb2_grpc import EngineControlAsyncStub  # exists for type checkers only

LOOK_S = 0.2  # between two samples
WARM, PARTS = (64, 8), (64, 16, 8, 4)  # of the most sequences, in each burst
RAMP_S = 12.0


async def measured_costs(
    share: Share, control_port: int, phases: Sequence[Phase], widest: BatchLimits, itl_target_ms: float
) -> LearntSteps:
    """The cost of a step.

    Args:
        share: whom to send to, and how; its schedule does not count.
        control_port: of the same engine, on loopback.
        phases: the mixes to come.
        widest: the limits that the engine has now.
        itl_target_ms: what the ramp goes up to.

    Raises:
        RuntimeError: the engine did too few steps to tell.
    """
    async with aio.insecure_channel(f"127.0.0.1:{control_port}") as channel:
        stub = EngineControlStub(channel)
        first = phases[0]
        bursts = [
            [
                Arrival(index, 0.0, first.inputs, max(2, first.outputs // 2))
                for index in range(max(1, widest.seqs // part))
            ]
            for part in (*WARM, *PARTS)
        ]
        seen = [await _stats_during(stub, replace(share, schedule=tuple(burst))) for burst in bursts]
        crude = _fitted(seen[len(WARM) :])
        ramp = traffic.ramp(traffic.rated(phases, crude, widest, itl_target_ms, 1.0), RAMP_S, share.seed)
        return _fitted([await _stats_during(stub, replace(share, schedule=tuple(ramp)))])


async def _stats_during(stub: "EngineControlAsyncStub", share: Share) -> list[pb.Stats]:
    """What the engine says while it answers a schedule, at the beginning and at the end too."""
    async with LoadClient(share) as client:
        found = [await stub.GetStats(pb.GetStatsRequest())]
        sending = asyncio.create_task(client.run(time.monotonic()))
        while not sending.done():
            await asyncio.wait((sending,), timeout=LOOK_S)
            found.append(await stub.GetStats(pb.GetStatsRequest()))
        await sending
    return found


def _fitted(series: Sequence[Sequence[pb.Stats]]) -> LearntSteps:
    fit = Fit()
    for stats in series:
        for before, after in pairwise(stats):
            done = StepsDone(
                after.steps - before.steps,
                after.generation_tokens - before.generation_tokens,
                after.prompt_tokens - before.prompt_tokens,
                after.step.sum_ms - before.step.sum_ms,
            )
            fit = learn(fit, (done,))
    found = learnt(fit, series[0][0].loads.max_total_num_tokens)
    if found is None:
        raise RuntimeError(
            f"{fit.observations:.0f} samples of {fit.output_tokens:.0f} tokens do not tell a step's cost"
        )
    added = 1 + min(found.residual, MOST_ADDED)
    return replace(
        found, step_ms=found.step_ms / added, sequence_ms=found.sequence_ms / added, token_ms=found.token_ms / added
    )
