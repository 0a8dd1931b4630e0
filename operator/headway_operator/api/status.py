"""`status`: what the operator observed and decided. Written only by the operator, by server-side apply.

What must survive a restart of the operator lives here: the desired count, the limits in force and the last changes, and the
spec that was accepted last.
"""

from typing import Annotated

from pydantic import Field, JsonValue

from headway_operator.api.base import ApiModel, Format, ListMap, PreserveUnknown, Timestamp
from headway_operator.api.spec_engine import DEFAULT_ITL_TARGET_MS, BatchingMode, Profile
from headway_operator.api.spec_slo import WorkloadClass

HISTORY_LENGTH = 10
Int32 = Annotated[int, Format("int32")]
Int64 = Annotated[int, Format("int64")]


class Condition(ApiModel):
    """One aspect of the fleet's state, in the form of a Kubernetes condition."""

    type: str = Field(max_length=316, description="The aspect; see the table of condition types.")
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$")] = Field(description="True, False or Unknown.")
    observed_generation: Int64 | None = Field(
        default=None, ge=0, description="metadata.generation of the spec that this was concluded from."
    )
    last_transition_time: Timestamp = Field(description="When `status` last changed.")
    reason: str = Field(min_length=1, max_length=1024, description="Why, in one CamelCase word.")
    message: str = Field(
        default="", max_length=32768, description="Why, in a sentence; with the cure when there is one."
    )


class ClassStatus(ApiModel):
    """One workload class over slo.windowSeconds, beside its objective."""

    workload_class: WorkloadClass = Field(description="The class.")
    ttft_observed_milliseconds: int | None = Field(
        default=None, description="Observed time to first token at its percentile, queue wait included."
    )
    ttft_target_milliseconds: int | None = Field(
        default=None, description="The objective for it; none for a class with a deadline."
    )
    inter_token_latency_observed_milliseconds: int | None = Field(
        default=None, description="Observed time between tokens at its percentile."
    )
    inter_token_latency_target_milliseconds: int = Field(description="The objective for it.")
    attainment_percent: int | None = Field(
        default=None, description="Percent of the requests whose first token came within the target, rounded down."
    )
    sample_count: int | None = Field(default=None, description="Requests that this was taken over.")


class DeadlineStatus(ApiModel):
    """The batch work of a fleet with slo.deadlineSeconds."""

    seconds: int = Field(description="The deadline: in which a request should be finished, from its arrival.")
    waiting_requests: int = Field(description="Requests that came and are not finished.")
    done_in_seconds: int | None = Field(
        default=None,
        description="In which all of them are done by the replicas that serve now. None: never, or not known.",
    )
    spare_seconds: int | None = Field(
        default=None,
        description="How long before its deadline the tightest of them is done at this size; below 0: it will be late by so much.",
    )
    needed_replicas: Int32 | None = Field(
        default=None, description="Replicas that the deadline asks for, together with the other classes."
    )
    finished_count: int = Field(default=0, description="Requests that ended in slo.windowSeconds.")
    late_count: int = Field(default=0, description="Of those, requests that ended after their deadline.")


class SloStatus(ApiModel):
    """The pooled measurements of all engines over slo.windowSeconds."""

    ttft_observed: str | None = Field(
        default=None, description="Observed time to first token with its unit, such as 431ms."
    )
    ttft_observed_milliseconds: int | None = Field(
        default=None,
        description="Observed time to first token at slo.ttft.percentile, queue wait included, in milliseconds.",
    )
    inter_token_latency_observed_milliseconds: int | None = Field(
        default=None, description="Observed time between tokens at its percentile, in milliseconds."
    )
    tokens_per_second: int | None = Field(default=None, description="Output tokens per second of the whole fleet.")
    queue_depth: int | None = Field(default=None, description="Requests waiting in all engines.")
    sample_count: int | None = Field(
        default=None, description="Requests that the observed percentiles were taken over."
    )
    last_sample_time: Timestamp | None = Field(default=None, description="When an engine last answered.")
    classes: Annotated[tuple[ClassStatus, ...], ListMap("workloadClass")] = Field(
        default=(),
        max_length=3,
        description="Each class apart, where slo.classes names further ones; the figures above are of slo.workloadClass then, "
        "tokens and queue of all.",
    )
    deadline: DeadlineStatus | None = Field(default=None, description="The work with a deadline.")


class ScalingChange(ApiModel):
    """One change of the replica count."""

    time: Timestamp = Field(description="When it was decided.")
    from_: Int32 = Field(validation_alias="from", serialization_alias="from", description="Replicas before.")
    to: Int32 = Field(description="Replicas after.")
    reason: str = Field(description="Why, with the numbers.")


class ScalingStatus(ApiModel):
    """What the replica actuator decided."""

    desired_replicas: Int32 | None = Field(default=None, description="Replicas that the operator works towards.")
    recommended_replicas: Int32 | None = Field(
        default=None, description="Replicas that the policy asks for, before stabilization and step limits."
    )
    recommended_since: Timestamp | None = Field(
        default=None,
        description="Since when the recommendation has been above, or below, the desired count without a break.",
    )
    reason: str | None = Field(default=None, description="Why, with the numbers.")
    last_scale_time: Timestamp | None = Field(default=None, description="When the desired count last changed.")
    history: tuple[ScalingChange, ...] = Field(
        default=(), max_length=HISTORY_LENGTH, description="The last changes, newest first."
    )


class LimitValues(ApiModel):
    """A full set of live batch limits."""

    max_num_seqs: int = Field(description="Sequences that run at once in one engine.")
    max_num_batched_tokens: int = Field(description="Tokens that one engine step computes.")
    batch_wait_milliseconds: int = Field(description="Milliseconds that requests wait for company.")
    max_queued_requests: int = Field(description="Requests that may wait in one engine's queue.")
    batching_mode: BatchingMode = Field(
        default=BatchingMode.CONTINUOUS, description="When waiting requests join the running ones."
    )
    profile: Profile = Field(default=Profile.THROUGHPUT, description="What an engine step is built for.")
    itl_target_milliseconds: int = Field(
        default=DEFAULT_ITL_TARGET_MS, description="Gap between two tokens that profile LowTail and batch work keep to."
    )
    default_class: WorkloadClass = Field(
        default=WorkloadClass.INTERACTIVE, description="Class of requests that name none."
    )
    reserved_percent: int = Field(
        default=0, description="Percent of the slots and KV blocks that batch work leaves free for better classes."
    )
    max_queued_batch_requests: int = Field(
        default=0, description="Waiting requests in one engine at which batch work is refused; 0: as maxQueuedRequests."
    )
    batch_deadline_seconds: int = Field(
        default=0, description="In which batch work should be finished, from its arrival; 0: it has no deadline."
    )
    interactive_itl_target_milliseconds: int = Field(
        default=0, description="Gap between two tokens of interactive streams; 0: as itlTargetMilliseconds."
    )
    batch_itl_target_milliseconds: int = Field(
        default=0, description="Gap between two tokens of batch streams under profile LowTail; 0: it has no bound."
    )
    ttft_target_milliseconds: int = Field(
        default=0,
        description="In which a request's first token is due, from its arrival. Who will miss it lets those of its class "
        "go first who can still keep theirs; 0: first come, first served.",
    )
    interactive_ttft_target_milliseconds: int = Field(
        default=0, description="In which the first token of interactive requests is due; 0: as ttftTargetMilliseconds."
    )


class TuningChange(ApiModel):
    """One change of the live batch limits."""

    time: Timestamp = Field(description="When it was decided.")
    from_: LimitValues = Field(validation_alias="from", serialization_alias="from", description="Limits before.")
    to: LimitValues = Field(description="Limits after.")
    reason: str = Field(description="Why, with the numbers.")


class TuningStatus(ApiModel):
    """What the batch limit actuator decided, and how far it has arrived."""

    revision: Int64 | None = Field(default=None, description="Grows by one with each change that the operator decides.")
    applied_replicas: Int32 | None = Field(default=None, description="Ready replicas that run with `effective`.")
    effective: LimitValues | None = Field(default=None, description="The limits in force; new pods start with them.")
    baseline: LimitValues | None = Field(
        default=None,
        description="The limits of the spec and its open windows, which tuning starts from and falls back to.",
    )
    recommended: LimitValues | None = Field(default=None, description="The limits that the policy asks for.")
    reason: str | None = Field(default=None, description="Why, with the numbers.")
    last_change_time: Timestamp | None = Field(default=None, description="When `effective` last changed.")
    history: tuple[TuningChange, ...] = Field(
        default=(), max_length=HISTORY_LENGTH, description="The last changes, newest first."
    )


class DemandStatus(ApiModel):
    """What the control loop knows of the load and of an engine, so that a new operator need not begin from nothing."""

    time: Timestamp = Field(description="When the newest of the minutes ended.")
    revision: str = Field(max_length=63, description="Revision of the pods that it was learnt from.")
    per_minute: tuple[Int32, ...] = Field(
        default=(),
        max_length=60,
        description="Demand in thousandths of an engine, one value a minute, newest last.",
    )
    input_tokens: Int32 | None = Field(default=None, description="Mean prompt of a request, in tokens.")
    output_tokens: Int32 | None = Field(default=None, description="Mean answer, in tokens.")
    deferred_by_age: tuple[Int32, ...] = Field(
        default=(),
        max_length=20,
        description="Requests with a deadline that are not finished, by when they came: one count for each twentieth of the "
        "deadline, newest last.",
    )
    deferred_input_tokens: Int32 | None = Field(default=None, description="Mean prompt of those, in tokens.")
    deferred_output_tokens: Int32 | None = Field(default=None, description="Mean answer of those, in tokens.")
    step_microseconds: Int64 | None = Field(default=None, description="Constant part of an engine step.")
    sequence_microseconds: Int64 | None = Field(default=None, description="What each running sequence adds to a step.")
    prompt_token_microseconds: Int64 | None = Field(default=None, description="What each prompt token adds to a step.")


class ScheduleWindow(ApiModel):
    """One open window of spec.schedules."""

    name: str = Field(description="Its name.")
    since: Timestamp = Field(description="When it began.")
    until: Timestamp = Field(description="When it ends.")
    overrides: tuple[str, ...] = Field(
        default=(), max_length=16, description="What it sets, such as `limits.maxNumSeqs 64`."
    )


class ScheduleSetAside(ApiModel):
    """An open window that cannot hold beside the others."""

    name: str = Field(description="Its name.")
    until: Timestamp = Field(description="When it ends.")
    message: str = Field(description="Which windows it contradicts, and in what.")


class ScheduleStatus(ApiModel):
    """Which windows of spec.schedules are open."""

    active: tuple[ScheduleWindow, ...] = Field(
        default=(),
        max_length=16,
        description="Open windows in the order of the spec; for each field the last one wins.",
    )
    set_aside: tuple[ScheduleSetAside, ...] = Field(
        default=(),
        max_length=16,
        description="Open windows that contradict an earlier one: they do not hold meanwhile.",
    )
    next_change_time: Timestamp | None = Field(default=None, description="When a window begins or ends next.")


class SymptomStatus(ApiModel):
    """One thing that keeps the fleet from its objective."""

    name: str = Field(min_length=1, max_length=63, description="Which, in one CamelCase word.")
    severity: Annotated[str, Field(pattern="^(critical|warning)$")] = Field(
        description="critical: requests are refused, or the objective cannot be met as it is. warning: anything else."
    )
    message: str = Field(description="What was measured, with the numbers and the bounds.")
    cure: str = Field(description="What to change, from which value.")
    since: Timestamp = Field(description="When it was first seen.")
    quiet_since: Timestamp | None = Field(
        default=None, description="Since when it has not shown again; 60 s of that end it."
    )


class AcceptedSpec(ApiModel):
    """The spec that was accepted last."""

    generation: Int64 = Field(description="metadata.generation that it was written with.")
    spec: Annotated[dict[str, JsonValue], PreserveUnknown(atomic=True)] = Field(
        description="It, as the API server gave it out."
    )


class LLMDeploymentStatus(ApiModel):
    """What the operator observed and decided."""

    observed_generation: Int64 | None = Field(
        default=None, description="metadata.generation that the operator last acted on."
    )
    last_accepted: AcceptedSpec | None = Field(
        default=None, description="The spec that the fleet runs with. It differs from spec while that is refused."
    )
    model: str | None = Field(default=None, description="The served name of the model.")
    endpoint: str | None = Field(default=None, description="In-cluster gRPC address, host:port.")
    replicas: Int32 | None = Field(default=None, description="Engine pods that exist and are not draining.")
    ready_replicas: Int32 | None = Field(default=None, description="Engine pods that take requests.")
    updated_replicas: Int32 | None = Field(default=None, description="Engine pods of the current revision.")
    selector: str | None = Field(
        default=None, description="Label selector of the engine pods, for the scale subresource."
    )
    slo: SloStatus | None = Field(default=None, description="Measured latencies and load.")
    scaling: ScalingStatus | None = Field(default=None, description="The replica actuator.")
    tuning: TuningStatus | None = Field(default=None, description="The batch limit actuator.")
    demand: DemandStatus | None = Field(
        default=None, description="What the control loop remembers: the load of the last hour and the cost of a step."
    )
    schedule: ScheduleStatus | None = Field(default=None, description="The windows of spec.schedules.")
    symptoms: Annotated[tuple[SymptomStatus, ...], ListMap("name")] = Field(
        default=(), max_length=16, description="What keeps the fleet from its objective, the worst first."
    )
    conditions: Annotated[tuple[Condition, ...], ListMap("type")] = Field(
        default=(), max_length=32, description="Aspects of the fleet's state, one per type."
    )
