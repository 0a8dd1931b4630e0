"""How a pod leaves without cutting a stream.

Three steps, each visible in the API or the engine, so that any operator can go on with them: the pod is marked and
leaves the Service; after `endpointRemovalDelaySeconds` its engine stops admission; when nothing is in flight, or the
deadline has passed, it is deleted. A pod that serves nobody is deleted at once.
"""

from collections.abc import Sequence
from datetime import datetime

from headway_operator.api.v1alpha1 import Drain
from headway_operator.core import names, pods
from headway_operator.core.observed import EngineSample, PodView
from headway_operator.core.plan import Action, DeletePod, MarkDraining, StartDrain
from headway_operator.core.rollout import Retire, serves_nobody

DEADLINE_GRACE_S = 15  # after the drain deadline the process gets this long to end its streams itself
CLOCK_SKEW_S = 60  # a drain that began further in the future than this was written with a broken clock


def start(retirements: Sequence[Retire], now: datetime) -> tuple[Action, ...]:
    """The first step for pods that shall leave."""
    actions: list[Action] = []
    for retire in retirements:
        if retire.at_once:
            actions.append(DeletePod(retire.pod.name, retire.pod.uid, retire.reason))
        else:
            actions.append(MarkDraining(retire.pod.name, retire.pod.uid, rfc3339(now), retire.reason))
    return tuple(actions)


def advance(pod: PodView, sample: EngineSample | None, drain: Drain, now: datetime) -> tuple[Action, ...]:
    """What to do for a pod that is marked; nothing while it has to wait. `sample`: a fresh one or None."""
    reason = _reason(pod)
    started = _started(pod, now)
    step = _step(pod, sample, drain, now, started or now)
    if isinstance(step, DeletePod):
        return (step,)
    # A mark that somebody broke is written anew: without a start there would be no deadline, and in the endpoints new
    # requests would reach a pod that refuses them. The drain goes on beside that, however often it happens.
    broken = started is None or names.in_endpoints(pod.labels)
    mark = (MarkDraining(pod.name, pod.uid, rfc3339(started or now), reason),) if broken else ()
    return mark if step is None else (*mark, step)


def _step(
    pod: PodView, sample: EngineSample | None, drain: Drain, now: datetime, started: datetime
) -> DeletePod | StartDrain | None:
    reason = _reason(pod)
    flying = pods.in_flight(sample)
    if serves_nobody(pod, sample) and not (sample is not None and sample.draining and flying):
        return DeletePod(pod.name, pod.uid, f"{reason}; no stream is in flight")
    elapsed = (now - started).total_seconds()
    if sample is not None and sample.draining and flying == 0:
        return DeletePod(pod.name, pod.uid, f"{reason}; drained in {elapsed:.0f} s")
    remaining = drain.endpoint_removal_delay_seconds + drain.timeout_seconds - elapsed
    if remaining <= 0:
        left = "it does not answer" if flying is None else f"{flying} streams are left"
        text = f"{reason}; drain timeout of {drain.timeout_seconds} s passed, {left}"
        return DeletePod(pod.name, pod.uid, text, grace_s=DEADLINE_GRACE_S)
    if elapsed >= drain.endpoint_removal_delay_seconds and sample is not None and not sample.draining:
        return StartDrain(pod.name, max(1, round(remaining)), f"{reason}; admission stops")
    return None


def rfc3339(moment: datetime) -> str:
    """A time as the API writes it: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(pod: PodView) -> str:
    return pod.annotations.get(names.ANNOTATION_DRAIN_REASON, "draining")


def _started(pod: PodView, now: datetime) -> datetime | None:
    """When the drain began; None for an annotation that somebody broke."""
    try:
        started = datetime.fromisoformat(pod.annotations[names.ANNOTATION_DRAIN_STARTED])
    except ValueError:
        return None
    if started.tzinfo is None or (started - now).total_seconds() > CLOCK_SKEW_S:
        return None
    return started
