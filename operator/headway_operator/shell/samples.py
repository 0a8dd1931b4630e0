"""From GetStats answers to what the core reads: decoding, and a bounded history per pod.

The core takes differences of counters over the SLO window, so a history needs its two ends and a few points between.
`History` keeps the last ten seconds in full and thins what is older, so an hour's window costs no more than a minute's.
An idle engine repeats itself: equal histograms share one tuple.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from headway_operator.core.histogram import Histogram
from headway_operator.core.observed import ClassSample, EngineSample
from headway_operator.core.plan import LimitsPatch, shared
from headway_rpc import pb

DENSE_S = 10.0  # so many seconds are kept in full
SPARSE_POINTS = 64  # and so many points of what is older
MARGIN_S = 10.0  # kept beyond the window, so that its far end has a sample


def _words(numbers: Iterable[tuple[str, int]], prefix: str) -> dict[int, str]:
    """The engine's words for the wire's numbers; the zero of each means that nothing was said."""
    return {number: name.removeprefix(prefix).lower().replace("_", "-") for name, number in numbers if number}


_CLASSES = _words(pb.Priority.items(), "PRIORITY_")
# A limit has one name on the wire and in the core; these are numbers there and words here.
_WORDS = {
    "batching_mode": _words(pb.BatchingMode.items(), "BATCHING_MODE_"),
    "profile": _words(pb.Profile.items(), "PROFILE_"),
    "default_class": _CLASSES,
}
_NUMBERS = {field: {word: number for number, word in words.items()} for field, words in _WORDS.items()}


class History:
    """The samples of one pod, oldest first.

    Args:
        window_s: how long a window the core will look at.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._samples: deque[EngineSample] = deque()

    def __len__(self) -> int:
        return len(self._samples)

    def view(self) -> tuple[EngineSample, ...]:
        """All samples, oldest first."""
        return tuple(self._samples)

    @property
    def latest(self) -> EngineSample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def add(self, sample: EngineSample) -> None:
        """Append a sample, forget those beyond the window and thin the older ones."""
        latest = self.latest
        if latest is not None and latest.boot_id == sample.boot_id and latest.revision > sample.revision:
            # It was on its way when an update was answered. The limits that it tells are those of before.
            sample = replace(
                sample,
                revision=latest.revision,
                effective=latest.effective,
                baseline=latest.baseline,
                lease_remaining_s=latest.lease_remaining_s,
            )
        self._samples.append(_sharing(sample, latest) if latest is not None else sample)
        while self._samples[0].taken_s < sample.taken_s - self.window_s - MARGIN_S:
            self._samples.popleft()
        self._thin(sample.taken_s - DENSE_S)

    def add_config(self, config: "pb.RuntimeConfig") -> None:
        """Take over the limits that an update just returned, so that the next decision does not repeat it.

        The sample that led to the update is kept before it: it may show what somebody else had written.
        """
        if self._samples:
            self._samples.append(
                replace(
                    self._samples[-1],
                    revision=config.revision,
                    effective=limits_of(config.effective),
                    baseline=limits_of(config.baseline),
                    lease_remaining_s=config.lease_remaining_seconds,
                )
            )

    def _thin(self, dense_from_s: float) -> None:
        """Drop the sample that just left the dense part if its older neighbour is near enough.

        Runs once per sample, so at most one sample can have left since the last time.
        """
        spacing_s = self.window_s / SPARSE_POINTS
        for index in range(len(self._samples) - 2, 0, -1):
            if self._samples[index].taken_s < dense_from_s:
                if self._samples[index].taken_s - self._samples[index - 1].taken_s < spacing_s:
                    del self._samples[index]
                return


def decode(stats: "pb.Stats", taken_s: float) -> EngineSample:
    """Turn one GetStats answer into the core's record."""
    return EngineSample(
        taken_s=taken_s,
        boot_id=stats.boot_id,
        num_running=stats.loads.num_running,
        num_waiting=stats.loads.num_waiting,
        waiting_prompt_tokens=stats.loads.waiting_prompt_tokens,
        kv_usage=stats.loads.token_usage,
        draining=stats.loads.draining,
        ttft=tuple(stats.ttft.buckets),
        queue_wait=tuple(stats.queue_wait.buckets),
        prefill=tuple(stats.prefill.buckets),
        itl=tuple(stats.itl.buckets),
        step=tuple(stats.step.buckets),
        requests_received=stats.requests_received,
        requests_finished=sum(stats.requests_finished.values()),
        requests_rejected=sum(stats.requests_rejected.values()),
        prompt_tokens=stats.prompt_tokens,
        generation_tokens=stats.generation_tokens,
        preemptions=stats.preemptions,
        revision=stats.config.revision,
        effective=limits_of(stats.config.effective),
        baseline=limits_of(stats.config.baseline),
        lease_remaining_s=stats.config.lease_remaining_seconds,
        num_waiting_batch=stats.loads.num_waiting_batch,
        waiting_batch_prompt_tokens=(
            stats.loads.waiting_batch_prompt_tokens if stats.loads.HasField("waiting_batch_prompt_tokens") else None
        ),
        classes={
            kind: _class_sample(one) for one in stats.classes if (kind := _CLASSES.get(one.workload_class)) is not None
        },
        queue_full=stats.requests_rejected.get("queue_full", 0),
        cached_prompt_tokens=stats.cached_prompt_tokens,
        steps=stats.steps,
        step_sum_ms=stats.step.sum_ms,
        kv_tokens=stats.loads.max_total_num_tokens,
    )


def _class_sample(one: "pb.ClassStats") -> ClassSample:
    return ClassSample(
        ttft=tuple(one.ttft.buckets),
        queue_wait=tuple(one.queue_wait.buckets),
        itl=tuple(one.itl.buckets),
        admitted=one.requests_admitted,
        finished=one.requests_finished,
        late=one.requests_late,
        refused=one.requests_refused,
        prompt_tokens_admitted=one.prompt_tokens_admitted,
        prompt_tokens=one.prompt_tokens,
        cached_prompt_tokens=one.cached_prompt_tokens,
        moved=one.requests_moved,
    )


def limits_of(limits: "pb.Limits") -> LimitsPatch:
    """The wire's limits as the core's; a limit the engine did not report stays None."""
    return _decoded(limits.SerializeToString())


@lru_cache(maxsize=1024)
def _decoded(wire: bytes) -> LimitsPatch:
    """Thousands of engines have the same limits, and tell them each second."""
    told: dict[str, Any] = {field.name: value for field, value in pb.Limits.FromString(wire).ListFields()}
    return shared(LimitsPatch(**told | {name: _WORDS[name].get(told[name]) for name in _WORDS.keys() & told.keys()}))


def limits_message(limits: LimitsPatch) -> "pb.Limits":
    """The core's limits as the wire's; None stays unset."""
    told: dict[str, Any] = asdict(limits)
    return pb.Limits(**told | {name: _NUMBERS[name].get(told[name]) for name in _NUMBERS})


def is_busy(sample: EngineSample, before: EngineSample | None) -> bool:
    """Does this sample deserve a pass soon: traffic, a restart, a drain, limits that changed by themselves?"""
    if sample.num_running or sample.num_waiting or sample.draining or before is None:
        return True
    return (
        sample.boot_id != before.boot_id
        or sample.requests_received != before.requests_received
        or sample.revision != before.revision
    )


def _sharing(sample: EngineSample, before: EngineSample) -> EngineSample:
    def same(new: Histogram, old: Histogram) -> Histogram:
        return old if new == old else new

    return replace(
        sample,
        ttft=same(sample.ttft, before.ttft),
        queue_wait=same(sample.queue_wait, before.queue_wait),
        prefill=same(sample.prefill, before.prefill),
        itl=same(sample.itl, before.itl),
        step=same(sample.step, before.step),
        classes=before.classes if sample.classes == before.classes else sample.classes,
    )
