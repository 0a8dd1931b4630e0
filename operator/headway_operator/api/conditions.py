"""The vocabulary of `status.conditions`, and the one function that changes them.

Types and reasons are closed: dashboards, alerts and tests match on them, so a new word is a change of the API. There is
no `phase`; `Ready` summarizes. `lastTransitionTime` moves only when `status` does, `observedGeneration` always follows
the spec that was judged. Conditions of other managers are left alone (the list is a map keyed by type).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from headway_operator.api.status import Condition


class ConditionStatus(StrEnum):
    """What is known of an aspect."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """The aspects of a fleet that the operator reports."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    ACCEPTED = "Accepted"
    MODEL_AVAILABLE = "ModelAvailable"
    METRICS_AVAILABLE = "MetricsAvailable"
    SLO_MET = "SLOMet"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    TUNING_APPLIED = "TuningApplied"
    DRAINING = "Draining"
    PAUSED = "Paused"
    HEALTHY = "Healthy"


MEANINGS: Mapping[ConditionType, str] = {
    ConditionType.READY: "The desired replicas run the spec that was accepted last and take requests.",
    ConditionType.PROGRESSING: "Pods are being created, replaced or removed.",
    ConditionType.ACCEPTED: "The spec can be acted on. False: the fleet runs with the one that was accepted last.",
    ConditionType.MODEL_AVAILABLE: "At least one engine has loaded the model.",
    ConditionType.METRICS_AVAILABLE: "The engines answer GetStats; without it nothing is scaled or tuned.",
    ConditionType.SLO_MET: "The observed percentiles lie within the objective. Unknown without traffic.",
    ConditionType.SCALING_ACTIVE: "The operator decides the number of replicas.",
    ConditionType.SCALING_LIMITED: "The policy asks for a count that a bound, a step limit or the cluster denies.",
    ConditionType.TUNING_APPLIED: "Every ready engine runs with the limits in status.tuning.effective.",
    ConditionType.DRAINING: "At least one pod finishes its streams before it goes.",
    ConditionType.PAUSED: "spec.paused is true: nothing is changed.",
    ConditionType.HEALTHY: "No symptom keeps the fleet from its objective. False: status.symptoms has them with their cures.",
}


class Reason(StrEnum):
    """Why a condition has its status."""

    # Ready, Progressing
    ALL_REPLICAS = "AllReplicas"  # as many updated and ready replicas as desired
    EARLIER_SPEC = "EarlierSpec"  # as many, of the spec that was accepted last: the newest one is refused
    STARTING = "Starting"  # pods exist, engines load
    SCALED_TO_ZERO = "ScaledToZero"  # desired is 0
    ROLLING_OUT = "RollingOut"  # pods of an old revision are being replaced
    SCALING_OUT = "ScalingOut"
    SCALING_IN = "ScalingIn"
    STABLE = "Stable"  # nothing to do
    DELETING = "Deleting"  # the LLMDeployment is being deleted
    # What keeps a pod from being ready
    UNSCHEDULABLE = "Unschedulable"  # no node has room for the pod
    INSUFFICIENT_GPUS = "InsufficientGPUs"  # no node has the GPU that it asks for
    IMAGE_UNAVAILABLE = "ImageUnavailable"  # the engine or model image cannot be pulled
    VOLUME_UNAVAILABLE = "VolumeUnavailable"  # the claim, path or secret to mount is missing
    ENGINE_REFUSED_SETTINGS = "EngineRefusedSettings"  # exit code 2
    ENGINE_CRASHED = "EngineCrashed"
    ENGINE_STALLED = "EngineStalled"  # a pod that served is not ready any more: its engine does not answer
    OUT_OF_MEMORY = "OutOfMemory"  # the container was killed for its memory limit
    POD_REFUSED = "PodRefused"  # the API server refused the pod: quota, admission, security
    # Accepted
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"  # an object of a child's name belongs to somebody else
    # ModelAvailable
    LOADED = "Loaded"
    LOADING = "Loading"
    MODEL_UNUSABLE = "ModelUnusable"  # exit code 3: missing, corrupt or of an unsupported architecture
    # MetricsAvailable
    ALL_ENGINES_ANSWER = "AllEnginesAnswer"
    SOME_ENGINES_SILENT = "SomeEnginesSilent"
    METRICS_LOST = "MetricsLost"  # no engine answers
    NO_ENGINES = "NoEngines"  # nobody to ask
    # SLOMet
    WITHIN_TARGET = "WithinTarget"
    TARGET_MISSED = "TargetMissed"
    NO_TRAFFIC = "NoTraffic"
    NO_OBJECTIVE = "NoObjective"
    # ScalingActive, TuningApplied: the mode
    AUTO = "Auto"
    ADVISORY = "Advisory"
    EXTERNAL = "External"
    OFF = "Off"
    # ScalingLimited
    NOT_LIMITED = "NotLimited"
    MAX_REPLICAS = "MaxReplicas"
    STEP_LIMIT = "StepLimit"  # maxReplicasPerPeriod
    STABILIZING = "Stabilizing"  # stabilizationWindowSeconds
    # TuningApplied
    APPLIED = "Applied"
    APPLYING = "Applying"
    # Draining
    STREAMS_FINISHING = "StreamsFinishing"
    NONE_DRAINING = "NoneDraining"
    # Paused
    PAUSED = "Paused"
    NOT_PAUSED = "NotPaused"
    # Healthy
    NO_SYMPTOM = "NoSymptom"
    # Healthy, symptoms: what keeps a fleet from its objective, see core/symptoms.py
    PROMPTS_TOO_LONG = "PromptsTooLong"  # prefill alone exceeds the target, on an idle engine
    BATCH_WAIT_TOO_LONG = "BatchWaitTooLong"  # requests wait for company while slots are free
    QUEUE_TOO_LONG = "QueueTooLong"  # most of a late first token is queue wait
    PREFILL_TOO_SLOW = "PrefillTooSlow"  # most of a late first token is compute
    STEPS_TOO_LONG = "StepsTooLong"  # the time between tokens exceeds its target
    BATCHES_TOO_SMALL = "BatchesTooSmall"  # the limit binds while latencies have room
    KV_CACHE_FULL = "KVCacheFull"  # the KV cache binds, not the limits
    QUEUE_FULL = "QueueFull"  # requests are refused
    DEADLINE_MISSED = "DeadlineMissed"  # batch work ends after its deadline, or will
    COLD_START_TOO_SLOW = "ColdStartTooSlow"  # demand grows faster than replicas start
    RIVAL_WRITER = "RivalWriter"  # somebody else writes what the operator owns
    WINDOW_SET_ASIDE = "WindowSetAside"  # an open window contradicts another one


@dataclass(frozen=True, slots=True)
class Finding:
    """What one pass concluded about one aspect; a `Condition` without its history."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""


def set_condition(
    existing: Iterable[Condition], finding: Finding, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions with `finding` in place of the one of its type, sorted by type."""
    by_type = {condition.type: condition for condition in existing}
    before = by_type.get(finding.type)
    unchanged_since = before.last_transition_time if before is not None and before.status == finding.status else None
    by_type[finding.type] = Condition(
        type=finding.type.value,
        status=finding.status.value,
        observed_generation=generation,
        last_transition_time=unchanged_since or now,
        reason=finding.reason.value,
        message=finding.message,
    )
    return tuple(by_type[name] for name in sorted(by_type))


def set_conditions(
    existing: Iterable[Condition], findings: Iterable[Finding], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after every finding of a pass."""
    conditions = tuple(existing)
    for finding in findings:
        conditions = set_condition(conditions, finding, generation, now)
    return conditions


def find(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """The condition of this type, if it was ever set."""
    return next((condition for condition in conditions if condition.type == kind), None)
