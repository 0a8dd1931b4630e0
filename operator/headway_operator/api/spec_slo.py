"""`spec.slo`: the workload class and the latency objective of a fleet, and of further classes that share it.

The class alone is enough: it brings targets of its own. A target that is given must lie in its class's range, so that
the class keeps its meaning for whoever routes, prioritizes or plans by it. In a fleet of several classes each is judged by
its own targets; the time between tokens grows from the better to the worse class, since they share every step. Batch work
may have a deadline instead of a target for its first token.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from headway_operator.api.base import ApiModel, ListMap, Rule


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


def _ranges(owner: str) -> tuple[Rule, ...]:
    """The class boundaries of a first-token target and of a deadline; `owner`: what the messages call it by."""
    return (
        Rule(
            "!has(self.deadlineSeconds) || self.workloadClass == 'batch'",
            f"{owner}.deadlineSeconds needs workloadClass batch: requests of other classes have a reader who waits",
            field_path=".deadlineSeconds",
        ),
        Rule(
            "!has(self.deadlineSeconds) || !has(self.ttft)",
            f"{owner}.deadlineSeconds and {owner}.ttft exclude each other: a deadline takes the place of that target",
            field_path=".deadlineSeconds",
        ),
        Rule(
            "!has(self.ttft) || self.workloadClass != 'realtime' || self.ttft.targetMilliseconds < 500",
            f"workloadClass realtime needs {owner}.ttft.targetMilliseconds below 500",
            field_path=".ttft.targetMilliseconds",
        ),
        Rule(
            "!has(self.ttft) || self.workloadClass != 'interactive' || "
            "(self.ttft.targetMilliseconds >= 500 && self.ttft.targetMilliseconds <= 2000)",
            f"workloadClass interactive needs {owner}.ttft.targetMilliseconds from 500 to 2000",
            field_path=".ttft.targetMilliseconds",
        ),
        Rule(
            "!has(self.ttft) || self.workloadClass != 'batch' || self.ttft.targetMilliseconds > 2000",
            f"workloadClass batch needs {owner}.ttft.targetMilliseconds above 2000",
            field_path=".ttft.targetMilliseconds",
        ),
    )


class ClassObjective(ApiModel):
    """A workload class and its latency objective."""

    rules: ClassVar[tuple[Rule, ...]] = _ranges("slo.classes[]")

    workload_class: WorkloadClass = Field(
        description="realtime (first token below 500 ms), interactive (500 to 2000 ms) or batch (above 2000 ms)."
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
    deadline_seconds: int | None = Field(
        default=None,
        ge=60,
        le=86_400,
        description="Class batch only, instead of ttft: seconds from its arrival in which a request should be finished. "
        "Such work is done in what other classes leave free, and starts replicas only where its deadline needs them. Default: "
        "none, the class is judged by its first tokens.",
    )

    @property
    def ttft_target(self) -> LatencyTarget:
        """The target for the time to first token, the class's default filled in."""
        return self.ttft or LatencyTarget(target_milliseconds=DEFAULT_TTFT_TARGET_MS[self.workload_class])

    @property
    def inter_token_latency_target(self) -> LatencyTarget:
        """The target for the time between tokens, the class's default filled in."""
        return self.inter_token_latency or LatencyTarget(target_milliseconds=DEFAULT_ITL_TARGET_MS[self.workload_class])


def _itl(one: str) -> str:
    """CEL: the target for the time between tokens of a class, its default filled in."""
    defaults = ", ".join(f"'{kind.value}': {value}" for kind, value in DEFAULT_ITL_TARGET_MS.items())
    written = f"has({one}.interTokenLatency) ? {one}.interTokenLatency.targetMilliseconds"
    return f"({written} : {{{defaults}}}[{one}.workloadClass])"


def _in_order(one: str, other: str) -> str:
    """CEL: the better of two classes has no longer time between tokens than the other."""
    ranks = "{" + ", ".join(f"'{kind.value}': {rank}" for rank, kind in enumerate(WorkloadClass)) + "}"
    classes = f"({ranks}[{one}.workloadClass] - {ranks}[{other}.workloadClass])"
    return f"{classes} * ({_itl(one)} - {_itl(other)}) >= 0"


class Slo(ClassObjective):
    """The latency objective that scaling and tuning work for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *_ranges("slo"),
        Rule(
            "!has(self.classes) || self.classes.all(c, c.workloadClass != self.workloadClass)",
            "slo.classes must not name slo.workloadClass again: its targets are slo.ttft and slo.interTokenLatency",
            field_path=".classes",
        ),
        Rule(
            f"!has(self.classes) || self.classes.all(c, {_in_order('c', 'self')} && "
            f"self.classes.all(d, {_in_order('c', 'd')}))",
            "interTokenLatency targets must not fall from realtime to interactive to batch (defaults: 50, 100, 500 ms)",
            field_path=".classes",
        ),
    )

    window_seconds: int = Field(
        default=60, ge=10, le=3600, description="Seconds of samples that an observed percentile is taken over."
    )
    classes: Annotated[tuple[ClassObjective, ...], ListMap("workloadClass")] = Field(
        default=(),
        max_length=2,
        description="Further classes that share the fleet, each with its own objective. Requests say their class; those that "
        "say none have slo.workloadClass. Better classes are served first, batch only takes their slack.",
    )

    @property
    def objectives(self) -> tuple[ClassObjective, ...]:
        """Every class that the fleet serves, better ones first."""
        own = ClassObjective(
            workload_class=self.workload_class,
            ttft=self.ttft,
            inter_token_latency=self.inter_token_latency,
            deadline_seconds=self.deadline_seconds,
        )
        ranks = list(WorkloadClass)
        return tuple(sorted((own, *self.classes), key=lambda one: ranks.index(one.workload_class)))

    @property
    def batch_deadline_seconds(self) -> int | None:
        """In which batch work should be finished, from its arrival; None: it has no deadline."""
        return self.objectives[-1].deadline_seconds

    @property
    def shares_slack(self) -> bool:
        """Whether batch work runs beside better classes."""
        kinds = {one.workload_class for one in self.objectives}
        return WorkloadClass.BATCH in kinds and len(kinds) > 1
