"""What an engine tells of its requests: of all of them, and of the batch work among them.

Every figure is a sum over requests, so what the better classes did is a difference. Only the KV cache does not tell whose
blocks it holds: batch work is taken to have its part of the running sequences.

First tokens are counted beside their class's target; in a fleet of one class those of all requests beside the only one.
"""

from collections.abc import Iterable, Mapping
from operator import sub
from typing import NamedTuple, Protocol

from headway_operator.core import histogram
from headway_operator.core.histogram import Histogram
from headway_operator.core.observed import BATCH, NO_REQUESTS, EngineSample

EVERY = ""  # the class of all requests


class Work(NamedTuple):  # three are made for each engine of a pass, and a frozen dataclass costs twice as much
    """Requests in one engine: counters since its boot, and gauges.

    Attributes:
        received: requests that came, those included that a full queue refused.
        refused: those.
        taken: prompt tokens of the others, less what the prefix cache held of them.
        output: tokens of answers.
        answered, late, queued: first tokens, see `FirstTokens`.
        queued_tokens: prompt tokens yet to compute.
        kv_used: tokens in the KV cache.
    """

    received: int
    refused: int
    taken: int
    finished: int
    output: int
    answered: float
    late: float
    queued: float
    running: int
    waiting: int
    queued_tokens: int
    kv_used: float

    def __sub__(self, other: "Work") -> "Work":
        """What is left without the others; figures that contradict each other leave nothing."""
        left = map(sub, self, other)
        return Work._make([one if one > 0 else 0 for one in left])  # noqa: FURB136 - `max` is slow


def all_work(sample: EngineSample, targets_ms: Mapping[str, float]) -> Work:
    """Of all requests. `targets_ms`: of the time to first token by class; {}: nothing is late."""
    answered, late, queued = _first(
        (sample if kind == EVERY else sample.classes.get(kind, NO_REQUESTS), target_ms)
        for kind, target_ms in targets_ms.items()
    )
    return Work(
        received=sample.arrivals,
        refused=sample.queue_full,
        taken=_came(sample) - sample.cached_prompt_tokens,
        finished=sample.requests_finished,
        output=sample.generation_tokens,
        answered=answered,
        late=late,
        queued=queued,
        running=sample.num_running,
        waiting=sample.num_waiting,
        queued_tokens=sample.waiting_prompt_tokens,
        kv_used=sample.kv_usage * sample.kv_tokens,
    )


def batch_work(sample: EngineSample, targets_ms: Mapping[str, float]) -> Work:
    """Of the batch class alone."""
    batch, running = sample.batch, sample.running_batch
    answered, late, queued = _first(
        (batch, target_ms) for kind, target_ms in targets_ms.items() if kind in (EVERY, BATCH)
    )
    return Work(
        received=batch.admitted + batch.refused,
        refused=batch.refused,
        taken=batch.prompt_tokens_admitted - batch.cached_prompt_tokens,
        finished=batch.finished,
        output=batch.tokens_out,
        answered=answered,
        late=late,
        queued=queued,
        running=running,
        waiting=sample.num_waiting_batch,
        queued_tokens=sample.queued_batch_tokens,
        kv_used=sample.kv_usage * sample.kv_tokens * running / max(1, sample.num_running),
    )


def _came(sample: EngineSample) -> int:
    """Prompt tokens of the requests that came.

    An older engine does not tell. It counts a prompt when it begins with it, and prompt tokens while they wait; one that is
    under way is in both, and one that was given up in the queue was in the second alone.
    """
    classes = sample.classes.values()
    if any(one.admitted or one.moved for one in classes):
        return sum(one.prompt_tokens_admitted for one in classes)
    return sample.prompt_tokens + sample.waiting_prompt_tokens


class _Answers(Protocol):
    """A sample, or a class of one."""

    @property
    def ttft(self) -> Histogram: ...
    @property
    def queue_wait(self) -> Histogram: ...


def _first(parts: Iterable[tuple[_Answers, float]]) -> tuple[float, float, float]:
    """First tokens, late ones, and those that waited in the queue for more than half of their target."""
    answered = late = queued = 0.0
    for counts, target_ms in parts:
        answered += histogram.count(counts.ttft)
        late += histogram.above(counts.ttft, target_ms)
        queued += histogram.above(counts.queue_wait, target_ms / 2)
    return answered, late, queued
