"""Leader election: one `coordination.k8s.io` Lease, held by renewing it.

A replica takes the Lease when it is free, or when its record has not changed for the lease duration **by this replica's own
monotonic clock**: no two wall clocks are compared. Every write replaces the whole object with its resourceVersion, so of two
replicas that try at once exactly one succeeds (the other gets a conflict). A leader that cannot renew within the renew
deadline, which is shorter than the duration, stops before another can begin. A clean exit empties the holder, and the next
leader need not wait.

A Lease does not fence: a paused process may wake up and write once more. Server-side apply and uid preconditions make that
harmless.
"""

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime

from headway_operator.core.plan import Json, Manifest
from headway_operator.shell.kube import RESOURCES, Failure, KubeApi, KubeError, Ref, at, dict_at, text_at

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds; `retry_s` < `renew_deadline_s` < `duration_s`."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


class Lease:
    """One replica's view of the Lease.

    Args:
        kube: the API.
        ref: the Lease.
        identity: this replica.
        timing: see `LeaseTiming`.
    """

    def __init__(self, kube: KubeApi, ref: Ref, identity: str, timing: LeaseTiming) -> None:
        self._kube = kube
        self._ref = ref
        self._identity = identity
        self._timing = timing
        self._record: dict[str, Json] = {}
        self._record_seen_s = float("-inf")

    async def acquire(self) -> None:
        """Return once this replica holds the Lease."""
        while True:
            if await self._try():
                return
            await asyncio.sleep(self._pause_s())

    async def hold(self) -> None:
        """Renew for ever; returns when the Lease is lost."""
        clock = asyncio.get_running_loop().time
        renewed_s = clock()
        while True:
            await asyncio.sleep(self._timing.retry_s)
            left_s = renewed_s + self._timing.renew_deadline_s - clock()
            try:
                async with asyncio.timeout(max(left_s, 0.0)):
                    renewed = await self._try()
            except TimeoutError:
                renewed = False
            if renewed:
                renewed_s = clock()
            elif self._is_held_by_other() or clock() - renewed_s >= self._timing.renew_deadline_s:
                log.error("the Lease %s is lost to %s", self._ref, self._holder() or "nobody yet")
                return

    async def release(self) -> None:
        """Give the Lease back, so that another replica can lead at once."""
        try:
            lease = await self._kube.get(self._ref)
            if text_at(lease, "spec", "holderIdentity") == self._identity:
                spec = {**dict_at(lease, "spec"), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._kube.replace(self._manifest(lease, spec))
        except KubeError as error:
            log.warning("the Lease could not be released, others will wait it out: %s", error.message)

    async def _try(self) -> bool:
        """Take or renew the Lease; False when another holds it, or the API did not let us."""
        try:
            lease = await self._read_or_create()
            self._see(dict_at(lease, "spec"))
            if self._is_held_by_other():
                return False
            written = await self._kube.replace(self._manifest(lease, self._claim()))
        except KubeError as error:
            level = logging.DEBUG if error.failure is Failure.CONFLICT else logging.WARNING
            log.log(level, "lease: %s", error.message)
            return False
        self._see(dict_at(written, "spec"))
        return True

    async def _read_or_create(self) -> Manifest:
        try:
            return await self._kube.get(self._ref)
        except KubeError as error:
            if error.failure is not Failure.NOT_FOUND:
                raise
        return await self._kube.create(self._manifest({}, {}))

    def _see(self, record: dict[str, Json]) -> None:
        if record != self._record:
            self._record = record
            self._record_seen_s = asyncio.get_running_loop().time()

    def _holder(self) -> str:
        holder = self._record.get("holderIdentity")
        return holder if isinstance(holder, str) else ""

    def _is_held_by_other(self) -> bool:
        if self._holder() in {"", self._identity}:
            return False
        # The holder's own duration counts: replicas of different versions may disagree.
        duration = self._record.get("leaseDurationSeconds")
        valid_s = float(duration) if isinstance(duration, int) else self._timing.duration_s
        return asyncio.get_running_loop().time() - self._record_seen_s < valid_s

    def _claim(self) -> dict[str, Json]:
        renewed = self._holder() == self._identity
        transitions = self._record.get("leaseTransitions")
        count = transitions if isinstance(transitions, int) else 0
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration_s)),
            "acquireTime": self._record.get("acquireTime") if renewed else _now(),
            "renewTime": _now(),
            "leaseTransitions": count if renewed else count + 1,
        }

    def _manifest(self, lease: Manifest, spec: dict[str, Json]) -> dict[str, Json]:
        metadata: dict[str, Json] = {"name": self._ref.name, "namespace": self._ref.namespace}
        version = at(lease, "metadata", "resourceVersion")
        if version is not None:
            metadata |= {"resourceVersion": version}
        return {"apiVersion": RESOURCES["Lease"].api_version, "kind": "Lease", "metadata": metadata, "spec": spec}

    def _pause_s(self) -> float:
        return self._timing.retry_s * random.uniform(0.8, 1.2)  # noqa: S311  standbys should not ask in step


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
