"""Engine samples in few words. The engine's own recorder fills the buckets, so both programs must mean the same ones."""

from typing import Any

from headway_engine.core.histogram import HistogramRecorder
from headway_operator.core.observed import EngineSample
from headway_operator.core.plan import LimitsPatch

LIMITS = LimitsPatch(4, 64, 0, 256)


def buckets(*values_ms: float) -> tuple[int, ...]:
    """What an engine's histogram says after these values."""
    recorder = HistogramRecorder()
    for value_ms in values_ms:
        recorder.record(value_ms)
    return recorder.snapshot().buckets


def sample(running: int = 0, **changes: object) -> EngineSample:
    """A sample of an engine with `running` requests."""
    fields: dict[str, Any] = {
        "taken_s": 0.0,
        "boot_id": "a",
        "num_running": running,
        "num_waiting": 0,
        "waiting_prompt_tokens": 0,
        "kv_usage": 0.0,
        "draining": False,
        **dict.fromkeys(("ttft", "queue_wait", "prefill", "itl", "step"), ()),
        **dict.fromkeys(("requests_received", "requests_finished", "requests_rejected"), 0),
        **dict.fromkeys(("prompt_tokens", "generation_tokens", "preemptions"), 0),
        "revision": 1,
        "effective": LIMITS,
        "baseline": LIMITS,
        "lease_remaining_s": 0.0,
    }
    return EngineSample(**{**fields, **changes})
