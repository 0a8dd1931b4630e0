"""`spec.slo`: the workload class and the latency objective of a fleet.

The class alone is enough: it brings targets of its own. A target that is given must lie in its class's range, so that
the class keeps its meaning for whoever routes, prioritizes or plans by it.
"""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from headway_operator.api.base import ApiModel, Rule


class WorkloadClass(StrEnum):
    """How long a reader is willing to wait for the first token."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"


DEFAULT_TTFT_TARGET_MS = {
    WorkloadClass.REALTIME: 400,
    WorkloadClass.INTERACTIVE: 1500,
    WorkloadClass.BATCH: 10_000,
}
DEFAULT_ITL_TARGET_MS = {
    WorkloadClass.REALTIME: 50,
    WorkloadClass.INTERACTIVE: 100,
    WorkloadClass.BATCH: 500,
}


class LatencyTarget(ApiModel):
    """A bound on one percentile of a latency."""

    target_milliseconds: int = Field(ge=1, le=3_600_000, description="The objective, in milliseconds.")
    percentile: int = Field(default=95, ge=50, le=99, description="The percentile that must stay below the target.")


class Slo(ApiModel):
    """The latency objective that scaling and tuning work for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.ttft) || self.workloadClass != 'realtime' || self.ttft.targetMilliseconds < 500",
            "workloadClass realtime needs slo.ttft.targetMilliseconds below 500",
            field_path=".ttft.targetMilliseconds",
        ),
        Rule(
            "!has(self.ttft) || self.workloadClass != 'interactive' || "
            "(self.ttft.targetMilliseconds >= 500 && self.ttft.targetMilliseconds <= 2000)",
            "workloadClass interactive needs slo.ttft.targetMilliseconds from 500 to 2000",
            field_path=".ttft.targetMilliseconds",
        ),
        Rule(
            "!has(self.ttft) || self.workloadClass != 'batch' || self.ttft.targetMilliseconds > 2000",
            "workloadClass batch needs slo.ttft.targetMilliseconds above 2000",
            field_path=".ttft.targetMilliseconds",
        ),
    )

    workload_class: WorkloadClass = Field(
        description="realtime (first token below 500 ms), interactive (500 to 2000 ms) or batch (above 2000 ms)."
    )
    window_seconds: int = Field(
        default=60, ge=10, le=3600, description="Seconds of samples that an observed percentile is taken over."
    )
    ttft: LatencyTarget | None = Field(
        default=None,
        description="Time to first token, queue wait included. Default: 400 ms realtime, 1500 ms interactive, "
        "10000 ms batch.",
    )
    inter_token_latency: LatencyTarget | None = Field(
        default=None,
        description="Time between two tokens of one answer. Default: 50 ms realtime, 100 ms interactive, 500 ms batch.",
    )

    @property
    def ttft_target(self) -> LatencyTarget:
        """The target for the time to first token, the class's default filled in."""
        return self.ttft or LatencyTarget(target_milliseconds=DEFAULT_TTFT_TARGET_MS[self.workload_class])

    @property
    def inter_token_latency_target(self) -> LatencyTarget:
        """The target for the time between tokens, the class's default filled in."""
        return self.inter_token_latency or LatencyTarget(target_milliseconds=DEFAULT_ITL_TARGET_MS[self.workload_class])
