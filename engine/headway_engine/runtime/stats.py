"""Figures about the engine as readers see them: `Loads` (now), `StatsSnapshot` (since boot), `Health`.

Durations and counters come from `core.metrics`, which the step thread writes; the step thread publishes frozen snapshots,
so that nobody reads a half-written one. `ThroughputWindow` and `RequestCounts` live on the event loop.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import floor

from headway_engine.core.histogram import Histogram
from headway_engine.core.limits import RuntimeConfigState
from headway_engine.core.metrics import ClassSnapshot
from headway_engine.core.request import Priority


@dataclass(frozen=True, slots=True)
class Loads:
    """A cheap snapshot for routers; see `headway.v1.Loads`.

    Attributes:
        num_running: requests that hold KV blocks.
        num_waiting: requests that do not: in tokenization, queued, or preempted.
        num_total: all requests in flight.
        used_tokens: tokens held in KV blocks.
        max_total_num_tokens: capacity of the KV cache.
        token_usage: used_tokens / max_total_num_tokens.
        gen_throughput: output tokens per second over the last 5 s.
        max_running_requests: the live limit.
        waiting_prompt_tokens: prompt tokens not prefilled yet, of waiting and running requests.
        draining: admission has stopped.
        num_waiting_batch: of num_waiting, requests of the batch class.
        waiting_batch_prompt_tokens: of waiting_prompt_tokens, of the batch class.
        room_for_batch: batch requests that would find a slot at once; below 0: so many more wait than could begin.
        default_class: of requests that name none.
        boot_id: of the process, as in `StatsSnapshot`.
    """

    num_running: int
    num_waiting: int
    num_total: int
    used_tokens: int
    max_total_num_tokens: int
    token_usage: float
    gen_throughput: float
    max_running_requests: int
    waiting_prompt_tokens: int
    draining: bool
    num_waiting_batch: int = 0
    waiting_batch_prompt_tokens: int = 0
    room_for_batch: int = 0
    default_class: Priority = Priority.INTERACTIVE
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """Counters and histograms since the process started; see `headway.v1.Stats`."""

    boot_id: str
    uptime_seconds: float
    loads: Loads
    ttft: Histogram
    queue_wait: Histogram
    prefill: Histogram
    itl: Histogram
    e2e: Histogram
    step: Histogram
    requests_received: int
    requests_finished: dict[str, int]
    requests_rejected: dict[str, int]
    prompt_tokens: int
    cached_prompt_tokens: int
    generation_tokens: int
    preemptions: int
    steps: int
    config: RuntimeConfigState
    classes: Mapping[Priority, ClassSnapshot] = field(default_factory=dict)  # of those that had requests


@dataclass(frozen=True, slots=True)
class Health:
    """Liveness and readiness; `detail` is one sentence that says why, when one of them is False."""

    alive: bool
    ready: bool
    detail: str


class RejectReason(StrEnum):
    """The keys of `requests_rejected`."""

    INVALID = "invalid"
    QUEUE_FULL = "queue_full"
    DRAINING = "draining"


@dataclass(slots=True)
class RequestCounts:
    """Requests that arrived, and those refused before they reached the step thread.

    Attributes:
        queue_full: of `rejected`, those that found the queue full, by class.
        admitted: sent to the step thread, by class.
        prompt_tokens_admitted: of their prompts.
        taken_over: likewise, but another engine had admitted them.
    """

    received: int = 0
    rejected: Counter[RejectReason] = field(default_factory=Counter)
    queue_full: Counter[Priority] = field(default_factory=Counter)
    admitted: Counter[Priority] = field(default_factory=Counter)
    prompt_tokens_admitted: Counter[Priority] = field(default_factory=Counter)
    taken_over: Counter[Priority] = field(default_factory=Counter)

    def take(self, kind: Priority, prompt_tokens: int, *, moved: bool) -> None:
        """Count a request that goes to the step thread."""
        if moved:
            self.taken_over[kind] += 1
        else:
            self.admitted[kind] += 1
            self.prompt_tokens_admitted[kind] += prompt_tokens


class ThroughputWindow:
    """Tokens per second over the last `span_s` seconds, in slots of a tenth of a second."""

    def __init__(self, span_s: float = 5.0) -> None:
        self._span_s = span_s
        self._slots: deque[tuple[int, int]] = deque()
        self._tokens = 0

    def record(self, tokens: int, now: float) -> None:
        """Count `tokens` at `now`."""
        slot = floor(now * 10)
        if self._slots and self._slots[-1][0] == slot:
            tokens_before = self._slots.pop()[1]
            self._slots.append((slot, tokens_before + tokens))
        else:
            self._slots.append((slot, tokens))
        self._tokens += tokens
        self._forget(now)

    def rate(self, now: float) -> float:
        """Tokens per second, averaged over the whole span."""
        self._forget(now)
        return self._tokens / self._span_s

    def _forget(self, now: float) -> None:
        oldest = floor((now - self._span_s) * 10)
        while self._slots and self._slots[0][0] <= oldest:
            self._tokens -= self._slots.popleft()[1]
