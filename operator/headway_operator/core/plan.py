"""What one pass will do: a tuple of actions, in order, each with its reason.

`shell/execute.py` runs them one at a time and stops at the first failure; the next pass starts from fresh reads. The
order is therefore part of the decision: record an intention in the status before acting on it, drain before delete.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeAlias

from headway_operator.core.memory import LoopMemory

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Manifest: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class LimitsPatch:
    """Live limits of one engine; None leaves a limit as it is."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    batch_wait_ms: int | None = None
    max_queued_requests: int | None = None
    batching_mode: str | None = None  # continuous, static, dynamic, adaptive
    profile: str | None = None  # throughput, low-tail
    itl_target_ms: int | None = None
    default_class: str | None = None  # realtime, interactive, batch
    reserved_percent: int | None = None
    max_queued_batch_requests: int | None = None
    batch_deadline_ms: int | None = None
    interactive_itl_target_ms: int | None = None
    batch_itl_target_ms: int | None = None
    ttft_target_ms: int | None = None
    interactive_ttft_target_ms: int | None = None

    def agrees(self, other: "LimitsPatch") -> bool:
        """Whether no limit that both name differs: an engine of an older version does not know them all."""
        if self is other or self == other:
            return True  # what most engines say, and the quick answer for a large fleet whose limits are `shared`
        for name in _LIMITS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and mine is not None and theirs is not None:
                return False
        return True


_LIMITS = tuple(field.name for field in fields(LimitsPatch))


@lru_cache(maxsize=1024)
def shared(limits: LimitsPatch) -> LimitsPatch:
    """One object for equal limits: thousands of engines have the same, and are compared with them in every pass."""
    return limits


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of an owned object (create or repair). `manifest` has kind, name and namespace."""

    manifest: Manifest
    reason: str


@dataclass(frozen=True, slots=True)
class MarkDraining:
    """Take a pod out of the endpoints and write down when and why: label serving=false, drain annotations."""

    pod: str
    uid: str
    started: str  # RFC 3339
    reason: str


@dataclass(frozen=True, slots=True)
class MarkServing:
    """Put a pod back into the endpoints: somebody else took the label serving=true from it."""

    pod: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartDrain:
    """Tell the engine in `pod` to admit nothing more (Drain RPC); what is in flight goes on."""

    pod: str
    deadline_s: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete with a uid precondition; `grace_s` None uses the pod's own grace period."""

    pod: str
    uid: str
    reason: str
    grace_s: int | None = None


@dataclass(frozen=True, slots=True)
class SetLimits:
    """UpdateRuntimeConfig on one engine. `lease_s` 0 makes the limits the engine's baseline."""

    pod: str
    limits: LimitsPatch
    lease_s: int
    expected_revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Put the drain finalizer on the LLMDeployment before anything is created for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Everything is drained and deleted: let the LLMDeployment go."""

    reason: str


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Server-side apply of the whole status (the operator owns all of it)."""

    status: Manifest
    reason: str


@dataclass(frozen=True, slots=True)
class Emit:
    """A Kubernetes Event on the LLMDeployment. `type` is Normal or Warning."""

    type: str
    event_reason: str  # CamelCase
    reason: str  # the message


Action: TypeAlias = (
    Apply
    | MarkDraining
    | MarkServing
    | StartDrain
    | DeletePod
    | SetLimits
    | AddFinalizer
    | RemoveFinalizer
    | WriteStatus
    | Emit
)


BUSY_S = 2.0  # time to the next pass while something moves
DRAINING_S = 1.0  # an empty pod should not be kept waiting
IDLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass: what to do now, and when to look again at the latest.

    Attributes:
        actions: in order.
        requeue_s: seconds until the next pass when nothing wakes it earlier.
        memory: what the next pass should be given; None: what it was given in this one.
    """

    actions: tuple[Action, ...]
    requeue_s: float
    memory: LoopMemory | None = None
