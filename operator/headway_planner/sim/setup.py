"""What is simulated: the engine, the cluster around it, and how the metrics travel."""

import math
from dataclasses import dataclass

from headway_planner.model import BatchLimits
from headway_planner.steps import StepModel

NEVER_DUE = (math.inf, math.inf, math.inf)


def told(realtime_ms: float, interactive_ms: float) -> tuple[float, float, float]:
    """`Setup.due_s` of engines that know these TTFT targets, as the operator tells them: class batch has none there."""
    return realtime_ms / 1000, interactive_ms / 1000, math.inf


@dataclass(frozen=True, slots=True)
class Setup:
    """One simulated fleet.

    Attributes:
        model: the engine of every replica.
        limits: batch limits of a new replica until a policy says otherwise.
        initial: replicas that serve at the start.
        min_replicas, max_replicas: bounds of the count.
        start_delay_s: median time from the order of a replica to its first request.
        start_sigma: spread of that time (log-normal).
        starts_at_once: replicas that can start at the same time; the others wait, and are paid for.
        mtbf_s: mean time between failures of one replica; 0: they do not fail.
        sample_s: time between two scrapes.
        scrape_loss: share of replica scrapes that get no answer.
        noise: spread of the gauges of a scrape (log-normal).
        settle_s: for so long nothing is removed, whoever decides: no policy has a past yet that it would have in a
            fleet that has been running, and a run must not be decided by its first minute.
        patience_s: how long after the last arrival the run goes on for what is still there.
        max_run: most decode steps computed at once; 1 is step by step.
        batch_reserve: above 0, requests with a deadline wait at the gateway until an engine has slack, and leave this share
            of its slots and of its KV cache free for the others; 0: they are requests like all others.
        due_s: by class, when first tokens are due after the arrival, as the engines know it; infinite: they serve in order
            of arrival.
    """

    model: StepModel
    limits: BatchLimits
    initial: int = 1
    min_replicas: int = 1
    max_replicas: int = 64
    start_delay_s: float = 100.0
    start_sigma: float = 0.3
    starts_at_once: int = 8
    mtbf_s: float = 0.0
    sample_s: float = 1.0
    scrape_loss: float = 0.0
    noise: float = 0.0
    settle_s: float = 300.0
    patience_s: float = 3600.0
    max_run: int = 256
    batch_reserve: float = 0.0
    due_s: tuple[float, float, float] = NEVER_DUE
