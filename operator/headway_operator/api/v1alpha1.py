"""`LLMDeployment` of serving.headway.dev/v1alpha1: a fleet of engines that serves one model within a latency objective.

These models are the one source of the API: the CRD (schema, defaults, CEL rules, descriptions) and the reference page
are generated from them. They are plain frozen data; import everything from here.
"""

from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from headway_operator.api import class_defaults
from headway_operator.api.base import ApiModel, Format, ListMap, PreserveUnknown, Rule
from headway_operator.api.spec_actuators import (
    Drain,
    Range,
    Rollout,
    ScaleDown,
    ScaleUp,
    Scaling,
    ScalingMode,
    Tuning,
    TuningBounds,
    TuningMode,
)
from headway_operator.api.spec_engine import (
    DEFAULT_ITL_TARGET_MS,
    GPU_RESOURCE,
    BatchingMode,
    Capacity,
    Device,
    Dtype,
    Engine,
    Limits,
    Profile,
    PromptPolicy,
    Resources,
)
from headway_operator.api.spec_model import (
    HostPathSource,
    ImageSource,
    Model,
    ModelSource,
    PackedSource,
    PullPolicy,
    PvcSource,
)
from headway_operator.api.spec_schedule import Schedule, ScheduleLimits, ScheduleScaling
from headway_operator.api.spec_slo import ClassObjective, LatencyTarget, Slo, WorkloadClass
from headway_operator.api.status import (
    HISTORY_LENGTH,
    AcceptedSpec,
    ClassStatus,
    Condition,
    DeadlineStatus,
    DemandStatus,
    LimitValues,
    LLMDeploymentStatus,
    ScalingChange,
    ScalingStatus,
    ScheduleSetAside,
    ScheduleStatus,
    ScheduleWindow,
    SloStatus,
    SymptomStatus,
    TuningChange,
    TuningStatus,
)

__all__ = [
    "API_VERSION",
    "GPU_RESOURCE",
    "GROUP",
    "HISTORY_LENGTH",
    "KIND",
    "PLURAL",
    "VERSION",
    "AcceptedSpec",
    "BatchingMode",
    "Capacity",
    "ClassObjective",
    "ClassStatus",
    "Condition",
    "DeadlineStatus",
    "DemandStatus",
    "Device",
    "Drain",
    "Dtype",
    "Engine",
    "HostPathSource",
    "ImageSource",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "LatencyTarget",
    "LimitValues",
    "Limits",
    "Metadata",
    "Model",
    "ModelSource",
    "PackedSource",
    "PodTemplate",
    "PodTemplateMetadata",
    "Profile",
    "PromptPolicy",
    "PullPolicy",
    "PvcSource",
    "Range",
    "Resources",
    "Rollout",
    "ScaleDown",
    "ScaleUp",
    "Scaling",
    "ScalingChange",
    "ScalingMode",
    "ScalingStatus",
    "Schedule",
    "ScheduleLimits",
    "ScheduleScaling",
    "ScheduleSetAside",
    "ScheduleStatus",
    "ScheduleWindow",
    "Slo",
    "SloStatus",
    "SymptomStatus",
    "Tuning",
    "TuningBounds",
    "TuningChange",
    "TuningMode",
    "TuningStatus",
    "WorkloadClass",
    "baseline_limits",
    "itl_target_ms",
    "ttft_target_ms",
    "tuning_bounds",
]

GROUP = "serving.headway.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMDeployment"
PLURAL = "llmdeployments"
_REALTIME_SEQS = class_defaults.CLASS_DEFAULTS[WorkloadClass.REALTIME].max_num_seqs


class PodTemplateMetadata(ApiModel):
    """Metadata added to every engine pod."""

    labels: dict[str, str] = Field(default={}, max_length=64, description="Labels added to the engine pods.")
    annotations: dict[str, str] = Field(default={}, max_length=64, description="Annotations added to the engine pods.")


class PodTemplate(ApiModel):
    """A partial pod template, merged over the pods that the operator makes."""

    metadata: PodTemplateMetadata = Field(default=PodTemplateMetadata(), description="Labels and annotations to add.")
    spec: Annotated[dict[str, JsonValue], PreserveUnknown()] = Field(
        default={},
        description="Fields of a PodSpec, merged strategically: containers, volumes and environment variables by name, "
        "tolerations appended, everything else replaced. The engine's container is called `engine`.",
    )


class LLMDeploymentSpec(ApiModel):
    """What the user wants."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.scaling.mode != 'Auto' || !has(self.replicas)",
            "spec.replicas must be unset when spec.scaling.mode is Auto (the operator owns the count); "
            "use mode Off, Advisory or External to set it",
            field_path=".replicas",
        ),
        Rule(
            "self.scaling.mode != 'External' || has(self.replicas)",
            "spec.replicas must be set when spec.scaling.mode is External (reading /scale fails on an absent value)",
            field_path=".replicas",
        ),
        Rule(
            "!(self.scaling.mode in ['Auto', 'Advisory']) || has(self.slo)",
            "spec.slo is required when spec.scaling.mode is Auto or Advisory (it is what the fleet is scaled for)",
            field_path=".slo",
        ),
        Rule(
            "self.tuning.mode == 'Off' || has(self.slo)",
            "spec.slo is required when spec.tuning.mode is Auto or Advisory (it is what the limits are tuned for)",
            field_path=".slo",
        ),
        *(
            Rule(
                f"!has(self.tuning.bounds) || !has(self.tuning.bounds.{field}) || "
                f"self.tuning.bounds.{field}.max <= self.engine.capacity.{field}",
                f"tuning.bounds.{field}.max cannot exceed engine.capacity.{field}",
                f"'tuning.bounds.{field}.max cannot exceed engine.capacity.{field} (%d)'"
                f".format([self.engine.capacity.{field}])",
                f".tuning.bounds.{field}.max",
            )
            for field in ("maxNumSeqs", "maxNumBatchedTokens")
        ),
        *(
            Rule(
                f"self.tuning.mode == 'Off' || !has(self.tuning.bounds) || !has(self.tuning.bounds.{field}) || "
                f"!has(self.engine.limits) || !has(self.engine.limits.{field}) || "
                f"(self.engine.limits.{field} >= self.tuning.bounds.{field}.min && "
                f"self.engine.limits.{field} <= self.tuning.bounds.{field}.max)",
                f"engine.limits.{field} must lie inside tuning.bounds.{field}",
                f"'engine.limits.{field} must lie inside tuning.bounds.{field} "
                f"(%d to %d)'.format([self.tuning.bounds.{field}.min, self.tuning.bounds.{field}.max])",
                f".engine.limits.{field}",
            )
            for field in ("maxNumSeqs", "maxNumBatchedTokens")
        ),
        Rule(
            "!has(self.engine.limits) || !has(self.engine.limits.maxNumBatchedTokens) || "
            "has(self.engine.limits.maxNumSeqs) || "
            "self.engine.limits.maxNumBatchedTokens >= self.engine.capacity.maxNumSeqs || "
            f"(self.engine.limits.maxNumBatchedTokens >= {_REALTIME_SEQS} && has(self.slo) && "
            "self.slo.workloadClass == 'realtime' && (!has(self.slo.classes) || size(self.slo.classes) == 0)) || "
            "(self.tuning.mode != 'Off' && has(self.tuning.bounds) && has(self.tuning.bounds.maxNumSeqs) && "
            "self.engine.limits.maxNumBatchedTokens >= self.tuning.bounds.maxNumSeqs.max)",
            "engine.limits.maxNumBatchedTokens must be at least the sequences at once (a decode step needs one token per "
            "sequence), which are, while engine.limits.maxNumSeqs is not set, engine.capacity.maxNumSeqs, with tuning no more "
            f"than tuning.bounds.maxNumSeqs.max, in class realtime no more than {_REALTIME_SEQS}",
            field_path=".engine.limits.maxNumBatchedTokens",
        ),
        *(
            Rule(
                f"!has(self.schedules) || self.schedules.all(w, !has(w.limits) || !has(w.limits.{field}) || "
                f"w.limits.{field} <= self.engine.capacity.{field})",
                f"schedules[].limits.{field} cannot exceed engine.capacity.{field}",
                f"'schedules[].limits.{field} cannot exceed engine.capacity.{field} (%d)'"
                f".format([self.engine.capacity.{field}])",
                ".schedules",
            )
            for field in ("maxNumSeqs", "maxNumBatchedTokens", "maxQueuedRequests")
        ),
        Rule(
            "!has(self.schedules) || !self.schedules.exists(w, has(w.replicas)) || "
            "(has(self.replicas) && self.scaling.mode in ['Off', 'Advisory'])",
            "schedules[].replicas needs spec.scaling.mode Off or Advisory, and spec.replicas to return to after the window",
            field_path=".schedules",
        ),
    )

    replicas: Annotated[int, Format("int32")] | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Engine pods to run. Unset: a new fleet begins with scaling.minReplicas, and the count is kept "
        "when scaling leaves mode Auto. Must be unset in scaling mode Auto, is required in External.",
    )
    paused: bool = Field(
        default=False, description="True: the operator observes and reports, and changes nothing of this fleet."
    )
    model: Model = Field(description="The model to serve.")
    engine: Engine = Field(description="The engine process of every pod.")
    slo: Slo | None = Field(default=None, description="The latency objective. Required when scaling or tuning is on.")
    scaling: Scaling = Field(
        default=Scaling(), description="Who decides the number of replicas, and how fast it may change."
    )
    tuning: Tuning = Field(
        default=Tuning(), description="Whether the live batch limits follow the load, and inside which bounds."
    )
    schedules: Annotated[tuple[Schedule, ...], ListMap("name")] = Field(
        default=(),
        max_length=16,
        description="Windows of time with other limits, bounds or replicas. Where open windows set the same field, the one "
        "later in the list wins.",
    )
    rollout: Rollout = Field(default=Rollout(), description="How pods of a new revision replace the old ones.")
    drain: Drain = Field(default=Drain(), description="How a pod is taken out of service.")
    template: PodTemplate = Field(
        default=PodTemplate(), description="A partial pod template, merged over the operator's own."
    )


class Metadata(ApiModel):
    """The part of ObjectMeta that the operator reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 1


class LLMDeployment(ApiModel):
    """A fleet of engines that serves one model within a latency objective."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "size(self.metadata.name) <= 46",
            "metadata.name must be at most 46 characters (the names of child objects add a suffix)",
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must begin with a letter and hold only a-z, 0-9 and '-' (a Service is named after it)",
        ),
    )

    metadata: Metadata
    spec: LLMDeploymentSpec = Field(description="What the user wants.")
    status: LLMDeploymentStatus = Field(
        default=LLMDeploymentStatus(), description="What the operator observed and decided."
    )

    @property
    def model_name(self) -> str:
        """The name that clients put in a request's `model`."""
        return self.spec.model.name_in(self.metadata.name)


def ttft_target_ms(spec: LLMDeploymentSpec) -> int | None:
    """Target for the time to first token, the class's default filled in; None without an objective."""
    return spec.slo.ttft_target.target_milliseconds if spec.slo else None


def itl_target_ms(spec: LLMDeploymentSpec) -> int | None:
    """Target for the time between tokens, the class's default filled in; None without an objective."""
    return spec.slo.inter_token_latency_target.target_milliseconds if spec.slo else None


def baseline_limits(spec: LLMDeploymentSpec) -> LimitValues:
    """The live limits that the spec asks for, the class's defaults filled in: what an engine starts with and falls back to."""
    engine, limits, defaults = spec.engine, spec.engine.limits, _class_defaults(spec)
    wait, profile = limits.batch_wait_milliseconds, limits.profile or defaults.profile
    served = {one.workload_class: one for one in spec.slo.objectives} if spec.slo else {}
    itl = {kind: one.inter_token_latency_target.target_milliseconds for kind, one in served.items()}
    ttft = {
        kind: one.ttft_target.target_milliseconds for kind, one in served.items() if kind is not WorkloadClass.BATCH
    }
    itl_ms, ttft_ms = min(itl.values(), default=DEFAULT_ITL_TARGET_MS), min(ttft.values(), default=0)
    return LimitValues(
        max_num_seqs=class_defaults.starting_seqs(engine, spec.tuning, defaults),
        max_num_batched_tokens=class_defaults.starting_tokens(engine, spec.tuning, defaults),
        batch_wait_milliseconds=defaults.batch_wait_milliseconds if wait is None else wait,
        max_queued_requests=class_defaults.queued_requests(engine, defaults),
        batching_mode=limits.batching_mode or defaults.batching_mode,
        profile=profile,
        itl_target_milliseconds=itl_ms,
        default_class=spec.slo.workload_class if spec.slo else WorkloadClass.INTERACTIVE,
        reserved_percent=class_defaults.reserved_percent(limits, spec.slo),
        max_queued_batch_requests=class_defaults.queued_batch_requests(engine, spec.slo),
        batch_deadline_seconds=(spec.slo.batch_deadline_seconds or 0) if spec.slo else 0,
        # 0 where it says no more than `itl_target_milliseconds`: an engine of an older version keeps to that alone.
        interactive_itl_target_milliseconds=_other_than(itl_ms, itl.get(WorkloadClass.INTERACTIVE, 0)),
        batch_itl_target_milliseconds=itl.get(WorkloadClass.BATCH, 0) if profile is Profile.LOW_TAIL else 0,
        ttft_target_milliseconds=ttft_ms,
        interactive_ttft_target_milliseconds=_other_than(ttft_ms, ttft.get(WorkloadClass.INTERACTIVE, 0)),
    )


def tuning_bounds(spec: LLMDeploymentSpec) -> tuple[Range, Range]:
    """Where tuning may move the sequences at once and the tokens of one step, the class's defaults filled in."""
    capacity, defaults, start = spec.engine.capacity, _class_defaults(spec), baseline_limits(spec)
    return (
        class_defaults.seqs_bounds(capacity, spec.tuning, defaults, start.max_num_seqs),
        class_defaults.tokens_bounds(capacity, spec.tuning, defaults, start.max_num_batched_tokens),
    )


def _other_than(shared_ms: int, own_ms: int) -> int:
    """A class's own target; 0 where `shared_ms` says it already."""
    return own_ms if own_ms != shared_ms else 0


def _class_defaults(spec: LLMDeploymentSpec) -> class_defaults.ClassDefaults:
    return class_defaults.of_slo(spec.slo)
