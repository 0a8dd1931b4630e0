"""The operator's own passes over one engine that Kubernetes knows nothing of.

`headway_operator.core.decide` is asked as the operator asks it: each second the engine's counters (`shell.engines`), every
other second a pass on the samples of the last minute, the memory of the pass before and the status that it wrote. The API
server is a dict. Of a plan the status is kept and limits are sent, as a lease, with the revision that they rest on; what
else a plan holds is about pods and Services, of which there are none.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from headway_operator.core import names, podspec, validation
from headway_operator.core.decide import decide
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import Defaults, EngineSample, Observed, PodView
from headway_operator.core.plan import Json, SetLimits, WriteStatus
from headway_operator.core.validation import Refused
from headway_operator.shell.engines import EngineError, Engines
from headway_operator.shell.kube import FleetKey

POLL_S, PASS_EVERY = 1.0, 2
POLL_TIMEOUT_S = 0.9
READY_S = 10.0
KEY = FleetKey("bench", "goodput")
DEFAULTS = Defaults(engine_image="none")


@dataclass(frozen=True, slots=True)
class Look:
    """One pass: the limits that the engine confirmed before it, what ran and waited, and the tuner's reason after it."""

    at_s: float  # on the clock of the event loop
    seqs: int
    tokens: int
    running: int
    waiting: int
    reason: str


class OneReplica:
    """A fleet of one replica, which is there already, between two passes.

    Args:
        spec: of an LLMDeployment with an objective.

    Raises:
        ValueError: the spec is refused.
    """

    def __init__(self, spec: Mapping[str, Json]) -> None:
        self._manifest: dict[str, Json] = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": KEY.name,
                "namespace": KEY.namespace,
                "uid": "goodput",
                "generation": 1,
                "finalizers": [names.FINALIZER],
            },
            "spec": dict(spec),
        }
        fleet = validation.sound(self._manifest)
        if isinstance(fleet, Refused) or fleet.spec.slo is None:
            raise ValueError(f"the spec is refused: {fleet}")
        self.window_s = float(fleet.spec.slo.window_seconds)
        self.pod = _pod(podspec.revision(fleet.spec))
        self._memory: LoopMemory | None = None

    def decided(self, samples: Sequence[EngineSample], now_s: float, now: datetime) -> list[SetLimits]:
        """One pass: what to send to the engine. `samples`: oldest first, at least one, on the clock of `now_s`."""
        series = {self.pod.name: tuple(samples)}
        plan = decide(Observed(self._manifest, (self.pod,), (), series, now, now_s, DEFAULTS, memory=self._memory))
        self._memory = plan.memory or self._memory
        for action in plan.actions:
            if isinstance(action, WriteStatus):
                self._manifest["status"] = dict(action.status)
        return [action for action in plan.actions if isinstance(action, SetLimits)]

    @property
    def reason(self) -> str:
        """Of the tuner, as `headway explain` shows it."""
        status = self._manifest.get("status")
        tuning = status.get("tuning") if isinstance(status, dict) else None
        return str(tuning.get("reason", "")) if isinstance(tuning, dict) else ""


@asynccontextmanager
async def followed(replica: OneReplica, control_port: int) -> AsyncIterator[list[Look]]:
    """Passes in the background, each a look; inside, the engine has the limits that the spec begins with."""
    engines = Engines(control_port, POLL_TIMEOUT_S)
    engines.track(KEY, [replica.pod], replica.window_s)
    looks: list[Look] = []
    task: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(READY_S):
            # The channel connects, the first pass sends limits, the second finds them in force.
            while len(looks) < 2:
                await engines.poll()
                await _pass(replica, engines, looks)
                await asyncio.sleep(0.1)
        task = asyncio.create_task(_passes(replica, engines, looks))
        yield looks
    finally:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await engines.close()


async def _passes(replica: OneReplica, engines: Engines, looks: list[Look]) -> None:
    clock = asyncio.get_running_loop().time
    begin_s, turn = clock(), 0
    while True:
        turn += 1
        await asyncio.sleep(max(0.0, begin_s + turn * POLL_S - clock()))
        await engines.poll()
        if turn % PASS_EVERY == 0:
            await _pass(replica, engines, looks)


async def _pass(replica: OneReplica, engines: Engines, looks: list[Look]) -> None:
    samples = engines.samples(KEY).get(replica.pod.name)
    if not samples:
        return
    now_s, latest = asyncio.get_running_loop().time(), samples[-1]
    for call in replica.decided(samples, now_s, datetime.now(UTC)):
        try:
            await engines.set_limits(replica.pod, call.limits, call.lease_s, call.expected_revision)
        except EngineError as error:  # the next pass tries again, as the operator's does
            print(f"limits were not taken: {error}", file=sys.stderr)
            break
    limits = latest.effective
    seqs, tokens = limits.max_num_seqs or 0, limits.max_num_batched_tokens or 0
    looks.append(Look(now_s, seqs, tokens, latest.num_running, latest.num_waiting, replica.reason))


def _pod(revision: str) -> PodView:
    now = datetime.now(UTC)
    return PodView(
        name=f"{KEY.name}-0",
        uid="engine",
        labels={key: str(value) for key, value in names.pod_labels(KEY.name, revision).items()},
        annotations={},
        phase="Running",
        ready=True,
        ip="127.0.0.1",
        node="here",
        created=now,
        deleting=False,
        ready_since=now,
    )
