"""How a pod leaves without cutting a stream.

Three steps, each visible in the API or the engine, so that any operator can go on with them: the pod is marked and
leaves the Service; after `endpointRemovalDelaySeconds` its engine stops admission; when nothing is in flight, or the
deadline has passed, it is deleted. A pod that serves nobody is deleted at once.

How long a drain has gone on is counted on the monotonic clock from when its mark was first seen (`clock.py`): a wall clock
that jumps neither cuts streams nor keeps a pod for ever.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
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


def stamps(pods: Iterable[PodView], known: Container[datetime], now: datetime) -> Iterable[datetime]:
    """When the drains began, as far as the marks tell.

    One that lies in the future was written with a broken clock and tells nothing, unless it is `known` from the pass before:
    then it is this clock that went back.
    """
    marked = (pod for pod in pods if names.ANNOTATION_DRAIN_STARTED in pod.annotations)
    for pod in marked:
        started = _started(pod)
        if started is not None and (started in known or (started - now).total_seconds() <= CLOCK_SKEW_S):
            yield started


def elapsed_s(pod: PodView, placed: Mapping[datetime, float], monotonic_s: float) -> float | None:
    """How long a pod has been draining; None when its mark does not tell. `placed`: the `stamps` on the monotonic clock."""
    started = _started(pod)
    began_s = None if started is None else placed.get(started)
    return None if began_s is None else monotonic_s - began_s


def advance(
    pod: PodView, sample: EngineSample | None, drain: Drain, elapsed_s: float | None, now: datetime
) -> tuple[Action, ...]:
    """What to do for a pod that is marked; nothing while it has to wait.

    Args:
        pod: the pod.
        sample: a fresh one or None.
        drain: the rules.
        elapsed_s: how long it has been draining; None when its mark does not tell.
        now: the wall clock, for a new mark.
    """
    step = _step(pod, sample, drain, elapsed_s or 0.0)
    if isinstance(step, DeletePod):
        return (step,)
    # A mark that somebody broke is written anew: without a start there would be no deadline, and in the endpoints new
    # requests would reach a pod that refuses them. The drain goes on beside that, however often it happens.
    broken = elapsed_s is None or names.in_endpoints(pod.labels)
    started = rfc3339(now) if elapsed_s is None else pod.annotations[names.ANNOTATION_DRAIN_STARTED]
    mark = (MarkDraining(pod.name, pod.uid, started, _reason(pod)),) if broken else ()
    return mark if step is None else (*mark, step)


def _step(pod: PodView, sample: EngineSample | None, drain: Drain, elapsed_s: float) -> DeletePod | StartDrain | None:
    reason = _reason(pod)
    flying = pods.in_flight(sample)
    if serves_nobody(pod, sample) and not (sample is not None and sample.draining and flying):
        return DeletePod(pod.name, pod.uid, f"{reason}; no stream is in flight")
    if sample is not None and sample.draining and flying == 0:
        return DeletePod(pod.name, pod.uid, f"{reason}; drained in {elapsed_s:.0f} s")
    remaining = drain.endpoint_removal_delay_seconds + drain.timeout_seconds - elapsed_s
    if remaining <= 0:
        left = "it does not answer" if flying is None else f"{flying} streams are left"
        text = f"{reason}; drain timeout of {drain.timeout_seconds} s passed, {left}"
        return DeletePod(pod.name, pod.uid, text, grace_s=DEADLINE_GRACE_S)
    if elapsed_s >= drain.endpoint_removal_delay_seconds and sample is not None and not sample.draining:
        return StartDrain(pod.name, max(1, round(remaining)), f"{reason}; admission stops")
    return None


def rfc3339(moment: datetime) -> str:
    """A time as the API writes it: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(pod: PodView) -> str:
    return pod.annotations.get(names.ANNOTATION_DRAIN_REASON, "draining")


def _started(pod: PodView) -> datetime | None:
    """When the drain began; None for a pod without a mark, and for one whose mark somebody broke."""
    mark = pod.annotations.get(names.ANNOTATION_DRAIN_STARTED)
    if mark is None:
        return None
    try:
        started = datetime.fromisoformat(mark)
    except ValueError:
        return None
    return started if started.tzinfo is not None else None
