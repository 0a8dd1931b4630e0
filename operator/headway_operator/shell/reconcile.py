"""One pass over one fleet: fresh reads, a pure decision, writes in order.

A pass never raises for what the API server, an engine or a user did: its `Outcome` says when to come again and whether
that is a retry. What cannot succeed by repeating (a quota, a missing permission, a field the CRD lacks) is told to the
user by an Event and retried rarely. A bug in a decision is logged with its stack and handled the same way, so that one
fleet's bug does not stop the others.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import Defaults, Observed
from headway_operator.core.plan import Manifest, Plan
from headway_operator.shell.engines import Engines
from headway_operator.shell.events import EventSink
from headway_operator.shell.execute import Executor, Result
from headway_operator.shell.kube import Failure, FleetKey, KubeApi, KubeError
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.observe import Carried, observed, read_fleet, window_s
from headway_operator.shell.refusals import Refusals

log = logging.getLogger(__name__)

Decide = Callable[[Observed], Plan]

ENGINE_RETRY_S = 2.0  # a pod whose control call failed is tried again after so long
TAKEN_S = 0.1  # a pod whose name was taken is created under another one after so long
TELL_S = 0.5  # a refusal that says something new is in the fleet's conditions after so long


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a pass ended.

    Attributes:
        requeue_s: when to pass again at the latest; on a failure the least time to wait.
        failure: why the pass failed; None when it did not.
        gone: the LLMDeployment does not exist any more.
    """

    requeue_s: float
    failure: Failure | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Shell:
    """What a pass works with."""

    kube: KubeApi
    engines: Engines
    events: EventSink
    executor: Executor
    metrics: Metrics
    defaults: Defaults


class Reconciler:
    """Runs passes.

    Args:
        shell: reads, writes, metrics.
        decide: the core.
    """

    def __init__(self, shell: Shell, decide: Decide) -> None:
        self._shell = shell
        self._decide = decide
        self._refusals = Refusals()
        self._memories: dict[FleetKey, LoopMemory] = {}
        self._taken: dict[FleetKey, frozenset[str]] = {}

    async def __call__(self, key: FleetKey) -> Outcome:
        """Run one pass."""
        clock = asyncio.get_running_loop().time
        started_s = clock()
        outcome = await self._pass(key)
        self._shell.metrics.passed(_label(outcome), clock() - started_s)
        if outcome.gone:
            self._shell.engines.track(key, (), 0.0)
            self._shell.metrics.forget(key)
            self._refusals.clear(key)
            self._memories.pop(key, None)
            self._taken.pop(key, None)
        return outcome

    async def _pass(self, key: FleetKey) -> Outcome:
        shell = self._shell
        manifest: Manifest = {}
        try:
            reads = await read_fleet(shell.kube, key)
            if reads is None:
                return Outcome(0.0, gone=True)
            manifest = reads.manifest
            shell.engines.track(key, reads.pods, window_s(manifest))
            now_s = asyncio.get_running_loop().time()
            carried = Carried(self._refusals.get(key), self._memories.get(key), self._taken.get(key, frozenset()))
            snapshot = observed(reads, shell.engines.samples(key), now_s, shell.defaults, carried)
            shell.metrics.fleet(key, manifest, shell.engines.oldest_sample_age_s(key, now_s))
            plan = self._decide(snapshot)
            if plan.memory is not None:
                self._memories[key] = plan.memory  # what was seen stays seen, also when a write fails
            result = await shell.executor.execute(key, plan, snapshot)
        except KubeError as error:
            return await self._failed(key, manifest, error, "")
        except Exception as error:
            log.exception("%s: the pass broke; this is a bug in the operator", key)
            return await self._failed(key, manifest, KubeError(Failure.PERMANENT, f"internal error: {error!r}"), "")
        shell.metrics.did(result.done)
        if result.engine_failures:
            shell.metrics.engine_failures(key, len(result.engine_failures))
            log.warning("%s: engines did not comply: %s", key, "; ".join(result.engine_failures))
        if result.error is not None:
            return await self._failed(key, manifest, result.error, type(result.failed).__name__)
        requeue_s = min(plan.requeue_s, ENGINE_RETRY_S) if result.engine_failures else plan.requeue_s
        if result.taken:
            log.warning("%s: other pods have these names, others are used: %s", key, ", ".join(result.taken))
            self._taken[key] = self._taken.get(key, frozenset()).union(result.taken)
            requeue_s = TAKEN_S
        return Outcome(min(requeue_s, await self._remember(key, manifest, result)))

    async def _remember(self, key: FleetKey, manifest: Manifest, result: Result) -> float:
        """Keep or forget what was refused; returns when to pass again for it at the latest."""
        if result.created_pod:
            self._refusals.clear(key)
        if not result.refused:
            refusal = self._refusals.get(key)
            return refusal.wait_s if refusal is not None else math.inf
        if not self._refusals.add(key, result.refused, asyncio.get_running_loop().time()):
            return math.inf
        log.warning("%s: a pod is refused: %s", key, result.refused)
        message = f"no pod can be created, which is tried again ever more rarely, each minute at last: {result.refused}"
        await self._shell.events.emit(key.ref, manifest, "Warning", "PodRefused", message)
        return TELL_S

    async def _failed(self, key: FleetKey, manifest: Manifest, error: KubeError, action: str) -> Outcome:
        log.warning("%s: %s failed: %s: %s", key, action or "the pass", error.failure, error.message)
        if error.failure is Failure.PERMANENT and manifest:
            message = f"{action or 'Reconciliation'} failed and is retried each minute: {error.message}"
            await self._shell.events.emit(key.ref, manifest, "Warning", "ReconcileFailed", message)
        return Outcome(error.retry_after_s, failure=error.failure)


def _label(outcome: Outcome) -> str:
    if outcome.gone:
        return "gone"
    return "ok" if outcome.failure is None else str(outcome.failure)
