"""`spec.scaling`, `spec.tuning`, `spec.rollout` and `spec.drain`: what the operator may do to a fleet, and how fast.

The two actuators have modes of their own. Advisory computes and reports in status what Auto would do, and does nothing.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from headway_operator.api.base import ApiModel, Format, Rule

Replicas = Annotated[int, Field(le=10_000), Format("int32")]


class ScalingMode(StrEnum):
    """Who decides the number of replicas."""

    OFF = "Off"
    ADVISORY = "Advisory"
    AUTO = "Auto"
    EXTERNAL = "External"


class TuningMode(StrEnum):
    """Whether the operator moves the live batch limits."""

    OFF = "Off"
    ADVISORY = "Advisory"
    AUTO = "Auto"


class ScaleUp(ApiModel):
    """How fast a fleet may grow."""

    stabilization_window_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="Seconds that a larger count must have been recommended before it is taken.",
    )
    max_replicas_per_period: Replicas = Field(default=4, ge=1, description="Most replicas added in one period.")
    period_seconds: int = Field(default=60, ge=1, le=3600, description="Length of the period, in seconds.")


class ScaleDown(ApiModel):
    """How fast a fleet may shrink."""

    stabilization_window_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Seconds that a smaller count must have been recommended before it is taken.",
    )
    max_replicas_per_period: Replicas = Field(default=1, ge=1, description="Most replicas removed in one period.")
    period_seconds: int = Field(default=60, ge=1, le=3600, description="Length of the period, in seconds.")


class Scaling(ApiModel):
    """The replica actuator."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.mode in ['Auto', 'Advisory']) || has(self.maxReplicas)",
            "scaling.maxReplicas is required when scaling.mode is Auto or Advisory",
            field_path=".maxReplicas",
        ),
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "scaling.minReplicas cannot exceed scaling.maxReplicas",
            "'scaling.minReplicas cannot exceed scaling.maxReplicas (%d)'.format([self.maxReplicas])",
            ".minReplicas",
        ),
    )

    mode: ScalingMode = Field(
        default=ScalingMode.OFF,
        description="Off: spec.replicas is what runs (unset: the count that is). Advisory: the same, and status.scaling says what Auto "
        "would do. Auto: the operator owns the count. External: an autoscaler edits spec.replicas through /scale.",
    )
    min_replicas: Replicas = Field(default=1, ge=1, description="Fewest replicas that Auto keeps.")
    max_replicas: Replicas | None = Field(default=None, ge=1, description="Most replicas that Auto takes.")
    scale_up: ScaleUp = Field(default=ScaleUp(), description="How fast Auto adds replicas.")
    scale_down: ScaleDown = Field(default=ScaleDown(), description="How fast Auto removes replicas.")


class Range(ApiModel):
    """A closed range."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.min <= self.max",
            "min cannot exceed max",
            "'min cannot exceed max (%d)'.format([self.max])",
            ".min",
        ),
    )

    min: int = Field(ge=1, le=1048576, description="Smallest value, inclusive.")
    max: int = Field(ge=1, le=1048576, description="Largest value, inclusive.")


class TuningBounds(ApiModel):
    """Where tuning may move the limits; inside the engine's capacity."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxNumSeqs) || !has(self.maxNumBatchedTokens) || "
            "self.maxNumBatchedTokens.max >= self.maxNumSeqs.min",
            "tuning.bounds.maxNumBatchedTokens.max must be at least tuning.bounds.maxNumSeqs.min (a decode step needs one "
            "token per sequence)",
            field_path=".maxNumBatchedTokens.max",
        ),
    )

    max_num_seqs: Range | None = Field(
        default=None,
        description="Range for the sequences that run at once. Default: 1 to 4 for class realtime, from 4 for interactive and "
        "from 32 for batch to the capacity; always wide enough for engine.limits.",
    )
    max_num_batched_tokens: Range | None = Field(
        default=None,
        description="Range for the tokens of one step. Default: from 64 for class realtime, 128 for interactive and 512 for "
        "batch to the capacity; always wide enough for engine.limits.",
    )


class Tuning(ApiModel):
    """The batch limit actuator."""

    mode: TuningMode = Field(
        default=TuningMode.OFF,
        description="Off: engine.limits hold. Advisory: status.tuning says what Auto would set. Auto: the operator moves "
        "the limits of running engines inside the bounds.",
    )
    cooldown_seconds: int = Field(
        default=30,
        ge=5,
        le=3600,
        description="Seconds between two changes, so that the effect of one is seen before the next. A burst of prompts and "
        "a raise that did not end a queue do not wait that long.",
    )
    lease_seconds: int = Field(
        default=300,
        ge=30,
        le=3600,
        description="Seconds that a tuned limit lives without renewal; an engine that hears nothing falls back to "
        "engine.limits.",
    )
    bounds: TuningBounds = Field(default=TuningBounds(), description="Where tuning may move the limits.")


class Rollout(ApiModel):
    """How pods of a new revision replace the old ones."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "rollout.maxSurge and rollout.maxUnavailable cannot both be 0",
        ),
    )

    max_surge: Replicas = Field(default=1, ge=0, description="Pods above the desired count that a rollout may run.")
    max_unavailable: Replicas = Field(
        default=0, ge=0, description="Pods below the desired count that a rollout may leave."
    )


class Drain(ApiModel):
    """How a pod is taken out of service."""

    timeout_seconds: int = Field(
        default=300, ge=0, le=7200, description="Seconds that streams in flight may go on once admission has stopped."
    )
    endpoint_removal_delay_seconds: int = Field(
        default=5,
        ge=0,
        le=120,
        description="Seconds between leaving the Service and closing admission, for clients and proxies to notice.",
    )
