"""`spec.schedules`: windows of time in which parts of the spec are others, such as larger batches at night."""

from typing import Annotated, ClassVar

from pydantic import Field

from headway_operator.api.base import ApiModel, Rule
from headway_operator.api.spec_actuators import Replicas
from headway_operator.api.spec_engine import BatchingMode, Profile

CRON_PATTERN = r"^\s*[0-9*,/-]+(\s+[0-9*,/-]+){4}\s*$"  # five fields; what they mean only the operator checks


class ScheduleLimits(ApiModel):
    """Live limits of a window; what is unset stays as it is."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxNumSeqs) || !has(self.maxNumBatchedTokens) || self.maxNumBatchedTokens >= self.maxNumSeqs",
            "limits.maxNumBatchedTokens must be at least limits.maxNumSeqs (a decode step needs one token per sequence)",
            field_path=".maxNumBatchedTokens",
        ),
    )

    max_num_seqs: int | None = Field(default=None, ge=1, le=4096, description="engine.limits.maxNumSeqs.")
    max_num_batched_tokens: int | None = Field(
        default=None, ge=1, le=1048576, description="engine.limits.maxNumBatchedTokens."
    )
    batch_wait_milliseconds: int | None = Field(
        default=None, ge=0, le=1000, description="engine.limits.batchWaitMilliseconds."
    )
    max_queued_requests: int | None = Field(
        default=None, ge=1, le=1048576, description="engine.limits.maxQueuedRequests."
    )
    max_queued_batch_requests: int | None = Field(
        default=None, ge=0, le=1048576, description="engine.limits.maxQueuedBatchRequests."
    )
    reserved_percent: int | None = Field(default=None, ge=0, le=90, description="engine.limits.reservedPercent.")
    batching_mode: BatchingMode | None = Field(default=None, description="engine.limits.batchingMode.")
    profile: Profile | None = Field(default=None, description="engine.limits.profile.")


class ScheduleScaling(ApiModel):
    """Bounds of a window; what is unset stays as it is."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "scaling.minReplicas cannot exceed scaling.maxReplicas",
            "'scaling.minReplicas cannot exceed scaling.maxReplicas (%d)'.format([self.maxReplicas])",
            ".minReplicas",
        ),
    )

    min_replicas: Replicas | None = Field(default=None, ge=1, description="scaling.minReplicas.")
    max_replicas: Replicas | None = Field(default=None, ge=1, description="scaling.maxReplicas.")


class Schedule(ApiModel):
    """One window that comes again and again."""

    name: str = Field(min_length=1, max_length=63, description="Name of the window, unique in the list.")
    cron: Annotated[str, Field(pattern=CRON_PATTERN)] = Field(
        min_length=9,
        max_length=128,
        description="When the window begins, in five fields: minute, hour, day of month, month, day of week (0 and 7 are "
        "Sunday). A time that a clock change skips moves to after the gap; one that it repeats counts once.",
    )
    time_zone: str = Field(
        default="Etc/UTC", min_length=1, max_length=64, description="IANA time zone of cron, such as Europe/Berlin."
    )
    duration_seconds: int = Field(
        ge=60,
        le=604800,
        description="Length of the window in seconds of elapsed time, at most the time from one start to the next.",
    )
    replicas: Replicas | None = Field(
        default=None, ge=0, description="spec.replicas; for scaling modes Off and Advisory, with spec.replicas set."
    )
    scaling: ScheduleScaling = Field(default=ScheduleScaling(), description="Bounds of scaling.")
    limits: ScheduleLimits = Field(
        default=ScheduleLimits(), description="Live limits inside engine.capacity; no pod restarts."
    )
