"""Kubernetes Events on LLMDeployments, bounded: repeats are dropped, floods are cut, failures are only logged.

An Event says what changed and why; the state is in the status. So losing one is harmless, and posting one must never delay
or fail a pass. Two guards hold the number of writes down: the same sentence about the same object is posted once in ten
minutes, whichever replica says it, and each object has a bucket of 25 Events that refills by one every 30 s. The last 5 of it are for warnings, and 5
more are not for changed limits: a fleet that is retuned all day still has room for a change of its replicas, and for trouble.
A sentence that was cut or refused was not said: it is posted when it comes again.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from headway_operator.core.plan import Manifest
from headway_operator.shell.kube import RESOURCES, Failure, KubeApi, KubeError, Ref, text_at

log = logging.getLogger(__name__)

REPEAT_S = 600.0
BURST = 25
KEPT_FOR_WARNINGS = 5
FREQUENT, KEPT_FROM_FREQUENT = frozenset({"LimitsChanged"}), 5
REFILL_S = 30.0
NOTE_LIMIT = 1024  # bytes the API accepts
REMEMBERED = 4096  # sentences and objects; the oldest are forgotten first


class EventSink(Protocol):
    """Takes Events; never fails."""

    async def emit(self, ref: Ref, manifest: Manifest, kind: str, reason: str, message: str) -> None:
        """Post an Event of type `kind` (Normal, Warning) about the object."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    refilled_s: float


class EventRecorder:
    """Posts Events to the API.

    Args:
        kube: where they go.
        reporter: the name of this replica.
        clock: monotonic seconds.
    """

    def __init__(self, kube: KubeApi, reporter: str, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._reporter = reporter
        self._clock = clock
        self._said: OrderedDict[str, float] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def emit(self, ref: Ref, manifest: Manifest, kind: str, reason: str, message: str) -> None:
        """See `EventSink`."""
        uid = text_at(manifest, "metadata", "uid")
        now_s = self._clock()
        digest = hashlib.sha256(f"{uid}\0{kind}\0{reason}\0{message}".encode()).hexdigest()[:16]
        if now_s - self._said.get(digest, -REPEAT_S) < REPEAT_S or not self._take_token(
            uid, now_s, _least(kind, reason)
        ):
            return
        now = datetime.now(UTC)
        # One name for all replicas: where two lead by turns, or for a moment both, the second one finds it posted.
        period = int(now.timestamp() // REPEAT_S)
        try:
            await self._kube.create(
                {
                    "apiVersion": RESOURCES["Event"].api_version,
                    "kind": "Event",
                    "metadata": {
                        "name": f"{ref.name[:200]}.{digest}{period:x}",
                        "namespace": ref.namespace,
                    },
                    "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                    "reportingController": "serving.headway.dev/operator",
                    "reportingInstance": self._reporter[:128],
                    "action": reason[:128],
                    "reason": reason[:128],
                    "type": kind,
                    "note": message.encode()[:NOTE_LIMIT].decode(errors="ignore"),
                    "regarding": {
                        "apiVersion": RESOURCES[ref.kind].api_version,
                        "kind": ref.kind,
                        "namespace": ref.namespace,
                        "name": ref.name,
                        "uid": uid,
                    },
                }
            )
        except KubeError as error:
            if error.failure is not Failure.CONFLICT:
                log.warning("%s: event %s not posted: %s", ref, reason, error.message)
                return
        self._said.pop(digest, None)
        self._said[digest] = now_s
        _trim(self._said)

    def _take_token(self, uid: str, now_s: float, least: float) -> bool:
        bucket = self._buckets.pop(uid, None) or _Bucket(BURST, now_s)
        bucket.tokens = min(float(BURST), bucket.tokens + (now_s - bucket.refilled_s) / REFILL_S)
        bucket.refilled_s = now_s
        self._buckets[uid] = bucket
        _trim(self._buckets)
        if bucket.tokens < least:
            return False
        bucket.tokens -= 1.0
        return True


def _least(kind: str, reason: str) -> float:
    """Tokens that must be there before an Event takes one of them."""
    if kind == "Warning":
        return 1.0
    return 1.0 + KEPT_FOR_WARNINGS + (KEPT_FROM_FREQUENT if reason in FREQUENT else 0)


def _trim(memory: "OrderedDict[str, float] | OrderedDict[str, _Bucket]") -> None:
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
