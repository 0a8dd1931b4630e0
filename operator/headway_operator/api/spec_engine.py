"""`spec.engine`: the engine process of every pod.

`capacity` is allocated when the process starts, so a change rolls the pods. `limits` move inside it while the engine
runs: a change goes over gRPC and no pod restarts. Everything else here restarts, too.
"""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from headway_operator.api.base import ApiModel, Quantity, Rule
from headway_operator.api.spec_model import PullPolicy

DEFAULT_ITL_TARGET_MS = 50  # without an slo
GPU_RESOURCE = "nvidia.com/gpu"


class Device(StrEnum):
    """What the engine computes on."""

    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """Number format of weights and activations."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


class BatchingMode(StrEnum):
    """When waiting requests join the running ones."""

    CONTINUOUS = "Continuous"
    STATIC = "Static"
    DYNAMIC = "Dynamic"
    ADAPTIVE = "Adaptive"


class Profile(StrEnum):
    """What an engine step is built for."""

    THROUGHPUT = "Throughput"
    LOW_TAIL = "LowTail"


class PromptPolicy(StrEnum):
    """What becomes of a prompt that is longer than the model takes."""

    REJECT = "Reject"
    TRUNCATE_LEFT = "TruncateLeft"
    TRUNCATE_RIGHT = "TruncateRight"
    TRUNCATE_MIDDLE = "TruncateMiddle"


class Capacity(ApiModel):
    """The envelope that an engine allocates at start. A change rolls the pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.maxNumBatchedTokens >= self.maxNumSeqs",
            "capacity.maxNumBatchedTokens must be at least capacity.maxNumSeqs (a decode step needs one token per sequence)",
            field_path=".maxNumBatchedTokens",
        ),
    )

    max_num_seqs: int = Field(ge=1, le=4096, description="Most sequences that may ever run at once in one engine.")
    max_num_batched_tokens: int = Field(
        ge=1, le=1048576, description="Most tokens that one engine step may ever compute (prefill and decode together)."
    )
    max_queued_requests: int = Field(
        default=1024, ge=1, le=1048576, description="Most requests that may ever wait in one engine's queue."
    )
    kv_cache_memory_mebibytes: int | None = Field(
        default=None,
        ge=16,
        le=1048576,
        description="Size of the KV cache in MiB. Default: 512 on cpu, 0.9 of the free memory on cuda.",
    )


class Limits(ApiModel):
    """The live batch limits: the baseline that tuning starts from and falls back to."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxNumSeqs) || !has(self.maxNumBatchedTokens) || self.maxNumBatchedTokens >= self.maxNumSeqs",
            "limits.maxNumBatchedTokens must be at least limits.maxNumSeqs (a decode step needs one token per sequence)",
            field_path=".maxNumBatchedTokens",
        ),
    )

    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Sequences that run at once in one engine. Default: 4 for class realtime, else the capacity; inside "
        "tuning.bounds.",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1048576,
        description="Tokens that one engine step computes. Default: 512 for class realtime, else the capacity; inside "
        "tuning.bounds.",
    )
    batch_wait_milliseconds: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Milliseconds that requests wait for company; batchingMode says which ones. Default: 5 for class "
        "interactive, 20 for batch, else 0.",
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=1,
        le=1048576,
        description="Requests that wait in one engine's queue before further ones are refused. "
        "Default: 8 for class realtime, 16 for interactive, 1024 for batch, 256 without an slo; never above the capacity.",
    )
    max_queued_batch_requests: int | None = Field(
        default=None,
        ge=0,
        le=1048576,
        description="Requests that wait in one engine before further batch work is refused; better classes then have "
        "maxQueuedRequests for themselves. 0: batch shares it. Default: 1024, at most the capacity, where batch shares the "
        "fleet with a better class, else 0.",
    )
    reserved_percent: int | None = Field(
        default=None,
        ge=0,
        le=90,
        description="Percent of the slots and KV blocks that batch work leaves free for better classes; above 0 it also joins "
        "their streams only while steps end within their interTokenLatency. 0: batch is only served last. Default: 20 where "
        "batch shares the fleet with a better class, else 0.",
    )
    batching_mode: BatchingMode | None = Field(
        default=None,
        description="When waiting requests join the running ones. Continuous: at the next step; only an idle engine waits "
        "for company. Dynamic: when they fill the free slots, or after batchWaitMilliseconds. Adaptive: at once when nothing "
        "runs; the more runs, the larger the group. Static: in groups of maxNumSeqs, each run to its end. Default: Dynamic for "
        "class interactive, else Continuous.",
    )
    profile: Profile | None = Field(
        default=None,
        description="Throughput fills each step with prompt tokens up to the limit. LowTail takes only as many as keep "
        "running streams within slo.interTokenLatency.targetMilliseconds (50 without an slo). Default: LowTail for class "
        "realtime, else Throughput.",
    )


class Resources(ApiModel):
    """Kubernetes resources of the engine container."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=16, description="Resources that the scheduler reserves, such as cpu: 500m, memory: 1Gi."
    )
    limits: dict[str, Quantity] = Field(
        default={},
        max_length=16,
        description="Resources that the container may use. nvidia.com/gpu is added on device cuda, one per rank.",
    )


def _within_capacity(field: str) -> Rule:
    return Rule(
        f"!has(self.limits) || !has(self.limits.{field}) || self.limits.{field} <= self.capacity.{field}",
        f"limits.{field} cannot exceed capacity.{field}",
        f"'limits.{field} cannot exceed capacity.{field} (%d)'.format([self.capacity.{field}])",
        f".limits.{field}",
    )


class Engine(ApiModel):
    """The engine process: where it runs, what it allocates, how it starts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _within_capacity("maxNumSeqs"),
        _within_capacity("maxNumBatchedTokens"),
        _within_capacity("maxQueuedRequests"),
        Rule(
            "!has(self.limits) || !has(self.limits.maxQueuedBatchRequests) || "
            "self.limits.maxQueuedBatchRequests <= self.capacity.maxQueuedRequests",
            "limits.maxQueuedBatchRequests cannot exceed capacity.maxQueuedRequests",
            "'limits.maxQueuedBatchRequests cannot exceed capacity.maxQueuedRequests (%d)'"
            ".format([self.capacity.maxQueuedRequests])",
            ".limits.maxQueuedBatchRequests",
        ),
        Rule(
            "self.device != 'cpu' || !has(self.resources) || "
            f"((!has(self.resources.limits) || !('{GPU_RESOURCE}' in self.resources.limits)) && "
            f"(!has(self.resources.requests) || !('{GPU_RESOURCE}' in self.resources.requests)))",
            f"engine.resources must not name {GPU_RESOURCE} when engine.device is cpu",
            field_path=".resources",
        ),
        Rule(
            "self.device != 'cpu' || self.dtype != 'float16'",
            "engine.dtype float16 needs engine.device cuda; on cpu use auto, float32, bfloat16 or int8",
            field_path=".dtype",
        ),
        Rule(
            "self.device != 'cuda' || self.dtype != 'int8'",
            "engine.dtype int8 needs engine.device cpu; on cuda use auto, float32, bfloat16 or float16",
            field_path=".dtype",
        ),
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Engine image. Default: the one that the operator is set to.",
    )
    image_pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT, description="When the kubelet pulls the engine image."
    )
    device: Device = Field(default=Device.CUDA, description="What the engine computes on: cuda takes one GPU per rank.")
    dtype: Dtype = Field(
        default=Dtype.AUTO,
        description="Number format of weights and activations; auto is bfloat16 on cuda, float32 on cpu. int8, on cpu only, "
        "keeps weights as bytes with a scale per output.",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        le=16777216,
        description="Longest prompt plus answer, in tokens. Default: the model's own limit.",
    )
    prompt_policy: PromptPolicy = Field(
        default=PromptPolicy.REJECT,
        description="What becomes of a prompt that leaves no room for its answer. Reject refuses it. The others cut tokens out "
        "at its beginning, at its end or in its middle; each answer says how many.",
    )
    tensor_parallel_size: Literal[1] = Field(default=1, description="GPUs that share one copy of the model (ranks).")
    capacity: Capacity = Field(description="Allocated when the engine starts: a change rolls the pods.")
    limits: Limits = Field(
        default=Limits(), description="Applied to running engines over gRPC: a change never restarts a pod."
    )
    resources: Resources = Field(default=Resources(), description="Kubernetes resources of the engine container.")
