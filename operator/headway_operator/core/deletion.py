"""An LLMDeployment that is being deleted: every pod drains, and when the last one is gone the object may go.

A pod whose node is gone stays in the API for as long as the node does. It holds nothing back: there is nothing to drain.
"""

from dataclasses import replace

from headway_operator.api.conditions import ConditionStatus, ConditionType, Finding, Reason
from headway_operator.api.parse import parse_status
from headway_operator.api.v1alpha1 import Drain
from headway_operator.core import clock, drain, names, pods, report, rollout
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import Observed
from headway_operator.core.plan import DRAINING_S, IDLE_S, DeletePod, Plan, RemoveFinalizer


def plan(observed: Observed, rules: Drain) -> Plan:
    """Drain every pod by the `rules`; when the last one is gone, let the object go."""
    if names.FINALIZER not in observed.finalizers:
        return Plan((), IDLE_S)
    left = [pod for pod in observed.pods if not pods.abandoned(pod, observed.now)]
    if not left:
        gone = f"every pod is drained and gone, but for {len(observed.pods)} on nodes that do not answer"
        return Plan((RemoveFinalizer(gone if observed.pods else "every pod is drained and gone"),), IDLE_S)
    samples = pods.fresh_samples(observed.samples, observed.pods, observed.monotonic_s)
    text = f"pods finish their streams and go, {len(left)} are left"
    found = (
        Finding(ConditionType.READY, ConditionStatus.FALSE, Reason.DELETING, "the LLMDeployment is being deleted"),
        Finding(ConditionType.DRAINING, ConditionStatus.TRUE, Reason.STREAMS_FINISHING, text),
    )
    actions = report.findings(observed, parse_status(observed.manifest), found)
    reason = "the LLMDeployment is being deleted"
    memory = _drains_placed(observed)
    for pod in observed.pods:
        if pod.deleting:
            continue
        sample = samples.get(pod.name)
        if pods.spent(pod):
            actions.append(DeletePod(pod.name, pod.uid, reason))
        elif pods.draining(pod):
            elapsed_s = drain.elapsed_s(pod, memory.stamps, observed.monotonic_s)
            actions += drain.advance(pod, sample, rules, elapsed_s, observed.now)
        else:
            retire = rollout.Retire(pod, reason, rollout.serves_nobody(pod, sample))
            actions += drain.start((retire,), observed.now)
    return Plan(tuple(actions), DRAINING_S, memory)


def _drains_placed(observed: Observed) -> LoopMemory:
    """The memory of a fleet that is being deleted: when its drains began, on the monotonic clock."""
    before = observed.memory
    known = before.stamps if before is not None else {}
    told = drain.stamps(observed.pods, known, observed.now)
    passed_s = before.passed_s if before is not None else None
    stamps = clock.placed(told, known, observed.now, observed.monotonic_s, passed_s)
    return replace(before or LoopMemory(), stamps=stamps, passed_s=observed.monotonic_s)
