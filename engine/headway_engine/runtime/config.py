"""What the engine needs to know before it loads a model.

`EngineConfig` covers the model, the device, the envelope and the baseline limits. Addresses, ports and the drain timeout
belong to the server's settings: the runtime never listens on anything.
"""

from dataclasses import dataclass
from pathlib import Path

from headway_engine.core.limits import DEFAULT_ITL_TARGET_MS, BatchingMode, Bounds, Envelope, Limits, Profile, check
from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.core.request import Priority

# Nobody waits longer than this for company: beyond it the wait itself would miss any latency objective.
MAX_BATCH_WAIT_MS = 1000


class ModelLoadError(Exception):
    """The model cannot be served; the message is one line that names the file and the cause."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine process; see the table of flags in ARCHITECTURE.md.

    Attributes:
        model: a Hugging Face directory or a `.gguf` file.
        served_model_name: what clients may put in `model`; None means the last path component without its suffix.
        device: `cpu`, `cuda` or `auto` (cuda when available).
        dtype: `float32`, `bfloat16`, `float16`, `int8` (cpu only) or `auto` (bfloat16 on cuda, float32 on cpu).
        max_model_len: longest prompt and answer together, in tokens; None means the model's own.
        capacity_max_num_seqs: envelope of running sequences.
        capacity_max_num_batched_tokens: envelope of tokens in one step.
        capacity_max_queued_requests: envelope of waiting requests.
        max_num_seqs: baseline limit; None means the capacity.
        max_num_batched_tokens: baseline limit; None means the capacity.
        batch_wait_ms: baseline of how long requests wait for company.
        max_queued_requests: baseline limit of waiting requests.
        batching_mode: baseline of when waiting requests join.
        profile: baseline of what a step is built for.
        itl_target_ms: baseline of the gap that the low-tail profile aims at.
        reserved_percent: baseline of the slots and blocks that batch work leaves free.
        default_class: baseline of the class of requests that name none.
        max_queued_batch_requests: baseline of the queue's bound for batch work; 0 means max_queued_requests.
        kv_cache_memory_mib: size of the KV cache; None means 512 on cpu and 0.9 of the free memory on cuda.
        block_size: tokens per KV block.
        threads: torch threads on cpu; None means the cgroup's CPU limit.
        prompt_policy: what becomes of prompts that are longer than the model takes.
        prefix_cache: keep KV blocks of ended requests for prompts that begin alike.
    """

    model: Path
    served_model_name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    capacity_max_num_seqs: int = 64
    capacity_max_num_batched_tokens: int = 2048
    capacity_max_queued_requests: int = 1024
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    batch_wait_ms: int = 0
    max_queued_requests: int = 256
    batching_mode: BatchingMode = BatchingMode.CONTINUOUS
    profile: Profile = Profile.THROUGHPUT
    itl_target_ms: int = DEFAULT_ITL_TARGET_MS
    reserved_percent: int = 0
    default_class: Priority = Priority.INTERACTIVE
    max_queued_batch_requests: int = 0
    kv_cache_memory_mib: int | None = None
    block_size: int = 16
    threads: int | None = None
    prompt_policy: PromptPolicy = PromptPolicy.REJECT
    prefix_cache: bool = True

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        if self.served_model_name:
            return self.served_model_name
        # A directory may be called "Qwen2.5-0.5B": only a known file suffix is cut.
        return self.model.name.removesuffix(".gguf")

    def envelope(self) -> Envelope:
        """What live limits may move inside."""
        return Envelope(
            max_num_seqs=Bounds(1, self.capacity_max_num_seqs),
            max_num_batched_tokens=Bounds(1, self.capacity_max_num_batched_tokens),
            batch_wait_ms=Bounds(0, MAX_BATCH_WAIT_MS),
            max_queued_requests=Bounds(1, self.capacity_max_queued_requests),
            max_queued_batch_requests=Bounds(0, self.capacity_max_queued_requests),
        )

    def baseline(self) -> Limits:
        """The limits in effect when no lease is held."""
        return Limits(
            max_num_seqs=self.capacity_max_num_seqs if self.max_num_seqs is None else self.max_num_seqs,
            max_num_batched_tokens=(
                self.capacity_max_num_batched_tokens
                if self.max_num_batched_tokens is None
                else self.max_num_batched_tokens
            ),
            batch_wait_ms=self.batch_wait_ms,
            max_queued_requests=self.max_queued_requests,
            batching_mode=self.batching_mode,
            profile=self.profile,
            itl_target_ms=self.itl_target_ms,
            reserved_percent=self.reserved_percent,
            default_class=self.default_class,
            max_queued_batch_requests=self.max_queued_batch_requests,
        )

    def problem(self) -> str | None:
        """Why an engine cannot start with these limits, or None when it can."""
        refused = check(self.baseline(), self.envelope())
        return None if refused is None else refused.message
