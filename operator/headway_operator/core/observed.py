"""Everything a decision may look at: one frozen snapshot of a fleet, read afresh for each pass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headway_operator.api.v1alpha1 import WorkloadClass
from headway_operator.core import histogram
from headway_operator.core.histogram import Histogram
from headway_operator.core.memory import LoopMemory
from headway_operator.core.plan import Json, LimitsPatch

BATCH = WorkloadClass.BATCH.value


@dataclass(frozen=True, slots=True)
class ClassSample:
    """The requests of one workload class in a GetStats answer, since boot; histograms in milliseconds.

    Attributes:
        ttft: time to first token; counts each request that got one.
        queue_wait: the part of it before the first prefill step.
        itl: time between tokens; counts each further token.
        admitted: requests that came in, refused ones not counted.
        finished: of those, how many ended.
        late: of these, how many after the deadline of their class.
        refused: requests that did not come in, because the queue was full.
        prompt_tokens_admitted: prompt tokens of the admitted ones.
        prompt_tokens: of those whose prefill began.
        cached_prompt_tokens: of these, found in the prefix cache.
        moved: requests that a router brought from another engine less those that it took to one; among none of the above.
    """

    ttft: Histogram = ()
    queue_wait: Histogram = ()
    itl: Histogram = ()
    admitted: int = 0
    finished: int = 0
    late: int = 0
    refused: int = 0
    prompt_tokens_admitted: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    moved: int = 0

    @property
    def here(self) -> int:
        """Requests that came in and have not ended."""
        return max(0, self.admitted + self.moved - self.finished)

    @property
    def tokens_out(self) -> int:
        """Tokens of answers: each is its first one or follows another."""
        return histogram.count(self.ttft) + histogram.count(self.itl)


NO_REQUESTS = ClassSample()


def arrivals(received: int, rejected: int, queue_full: int) -> int:
    """Requests that were taken, or would have been but for a full queue: one that cannot be served is no demand."""
    return max(0, received - rejected + queue_full)


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One GetStats answer. Counters and histograms run since `boot_id` began.

    Times are milliseconds in the histograms, seconds elsewhere.
    """

    taken_s: float  # the operator's monotonic clock
    boot_id: str
    num_running: int
    num_waiting: int
    waiting_prompt_tokens: int
    kv_usage: float  # 0..1
    draining: bool
    ttft: Histogram
    queue_wait: Histogram
    prefill: Histogram
    itl: Histogram
    step: Histogram
    requests_received: int
    requests_finished: int
    requests_rejected: int
    prompt_tokens: int
    generation_tokens: int
    preemptions: int
    revision: int
    effective: LimitsPatch  # every field set
    baseline: LimitsPatch  # every field set
    lease_remaining_s: float
    num_waiting_batch: int = 0  # of num_waiting: of the batch class
    waiting_batch_prompt_tokens: int | None = (
        None  # of waiting_prompt_tokens; None: an older engine, which does not tell
    )
    classes: Mapping[str, ClassSample] = field(default_factory=dict)  # by workload class; those that had requests
    queue_full: int = 0  # of requests_rejected: the queue was full
    cached_prompt_tokens: int = 0  # of prompt_tokens: found in the prefix cache
    steps: int = 0
    step_sum_ms: float = 0.0
    kv_tokens: int = 0  # that the KV cache holds

    @property
    def arrivals(self) -> int:
        """Requests that were demand since boot."""
        return arrivals(self.requests_received, self.requests_rejected, self.queue_full)

    @property
    def batch(self) -> ClassSample:
        """The requests of class batch."""
        return self.classes.get(BATCH, NO_REQUESTS)

    @property
    def running_batch(self) -> int:
        """Batch requests that hold a slot: admitted, not finished, not waiting."""
        return max(0, min(self.num_running, self.batch.here - self.num_waiting_batch))

    @property
    def queued_batch_tokens(self) -> int:
        """Prompt tokens of batch work yet to compute."""
        if self.waiting_batch_prompt_tokens is not None:
            return self.waiting_batch_prompt_tokens
        return max(0, self.batch.prompt_tokens_admitted - self.batch.prompt_tokens)


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The engine container as kubelet reports it."""

    ready: bool
    restart_count: int
    waiting_reason: str = ""  # ImagePullBackOff, CrashLoopBackOff, ...
    waiting_message: str = ""
    terminated_reason: str = ""  # of the last termination: OOMKilled, Error, ...
    terminated_message: str = ""  # /dev/termination-log
    terminated_exit_code: int = 0


@dataclass(frozen=True, slots=True)
class PodView:
    """One engine pod of the fleet."""

    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    phase: str  # Pending, Running, Succeeded, Failed, Unknown
    ready: bool
    ip: str  # "" until assigned
    node: str
    created: datetime
    deleting: bool
    due: datetime | None = None  # when it should be gone: its deletion and its grace; None while it is not deleted
    image: str = ""  # of the engine, as the pod asks for it
    ready_since: datetime | None = None  # None while it is not ready
    lost_since: datetime | None = None  # it served and is not ready since then, without a restart; None: not so
    unschedulable_message: str = ""  # the scheduler's sentence when it cannot place the pod
    volumes_ready: bool = True  # False until kubelet has mounted the volumes and set up the pod's network
    container: ContainerState | None = None


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """A child other than a pod: what it looks like and which of its fields we own."""

    kind: str
    name: str
    uid: str
    controlled: bool  # owned by this LLMDeployment (uid matches)
    manifest: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Observed:
    """A fleet at one moment.

    Attributes:
        manifest: the LLMDeployment as read (metadata, spec, status), raw: `decide` parses and validates it.
        pods: pods that carry the fleet's label and our ownerReference, deleting ones included.
        children: Services, ServiceAccount, PodDisruptionBudget of the fleet's names, foreign ones included.
        samples: per pod name the recent GetStats samples, oldest first, at most `slo.windowSeconds` + 10 s long.
        now: wall clock, UTC: for timestamps in the API.
        monotonic_s: the clock of the samples.
        defaults: operator settings that decisions need.
        refused: why the API server refused to create a pod the last time; "" when it did not.
        hold_creation: that was a moment ago, and no pod should be created in this pass.
        memory: what the pass before left for this one; None in the first pass of a process.
        autoscalers: HorizontalPodAutoscalers that target the fleet in mode Auto, where the API server refuses their writes
            and keeps no trace of them at the fleet.
        taken: names that pods outside of the fleet have, as the API server said when a pod was to be created.
    """

    manifest: Mapping[str, Json]
    pods: tuple[PodView, ...]
    children: tuple[OwnedObject, ...]
    samples: Mapping[str, tuple[EngineSample, ...]]
    now: datetime
    monotonic_s: float
    defaults: "Defaults"
    refused: str = ""
    hold_creation: bool = False
    memory: LoopMemory | None = None
    autoscalers: tuple[str, ...] = ()
    taken: frozenset[str] = frozenset()

    @property
    def metadata(self) -> Mapping[str, Json]:
        """Of the LLMDeployment."""
        found = self.manifest.get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def generation(self) -> int:
        """Of the spec that the user wrote last."""
        found = self.metadata.get("generation")
        return found if isinstance(found, int) else 1

    @property
    def deleting(self) -> bool:
        """Whether it is being deleted."""
        return bool(self.metadata.get("deletionTimestamp"))

    @property
    def finalizers(self) -> list[Json]:
        """What holds it back from that."""
        found = self.metadata.get("finalizers")
        return found if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class Defaults:
    """Operator settings that shape what it creates."""

    engine_image: str
    engine_image_pull_policy: str = "IfNotPresent"
    engine_command: tuple[str, ...] = field(default_factory=tuple)  # empty: the image's entrypoint
