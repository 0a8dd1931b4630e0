"""From the pods that are there to the next step: which to create, which to retire.

The step is derived from what is observed, never stored, so a crash loses nothing. Without pods of an old revision it is
plain arithmetic: create what is missing, retire what is too much. With them it is a rolling update, where N is the
desired count: at most N + maxSurge pods exist (draining ones included, they still hold their GPU, but none whose node is
gone), at least N - maxUnavailable serve, and an old pod retires only when a new one serves in its place.

When the surge pod finds no GPU, waiting would wait for ever: the old pod is the one that holds it. Then one old pod
retires first, and its place goes to the new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from headway_operator.api.v1alpha1 import Rollout
from headway_operator.core import names, pods
from headway_operator.core.observed import EngineSample, PodView

SPENT_GRACE_S = 10.0  # a pod that a node refuses at once must not become a hot loop of pods


@dataclass(frozen=True, slots=True)
class Retire:
    """A pod to take out of service. `at_once`: it serves nobody, so there is nothing to drain."""

    pod: PodView
    reason: str
    at_once: bool


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do with the pods in this pass."""

    create: int = 0
    create_reason: str = ""
    retire: tuple[Retire, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the fleet's pods should be.

    Attributes:
        replicas: how many.
        revision: of which revision.
        image: of the engine in a new pod. Where the operator's default changes it, pods that run keep theirs.
    """

    replicas: int
    revision: str
    image: str


def next_steps(
    all_pods: Sequence[PodView],
    wanted: Wanted,
    rollout: Rollout,
    samples: Mapping[str, EngineSample],
    now: datetime,
) -> Steps:
    """The next step towards what is wanted. `samples`: the fresh ones only."""
    desired = wanted.replicas
    live = [pod for pod in all_pods if pods.live(pod)]
    hopeless = [pod for pod in live if not pod.ready and _hopeless(pod, wanted.image)]
    replicas = [pod for pod in live if pod not in hopeless] if hopeless else live
    old = [pod for pod in replicas if pods.revision_of(pod) != wanted.revision]
    swept = tuple(
        Retire(pod, f"pod ended: {pod.phase}", at_once=True)
        for pod in all_pods
        if pods.spent(pod) and not pod.deleting and pods.age_s(pod, now) >= SPENT_GRACE_S
    )
    swept += tuple(
        Retire(pod, f"it cannot run with image {pod.image}, new pods get {wanted.image}", at_once=True)
        for pod in hopeless
    )
    if not old:
        steps = _resize(replicas, desired, samples)
    else:
        leaving = len(hopeless) + sum(
            1 for pod in all_pods if not pods.live(pod) and not pods.spent(pod) and not pods.abandoned(pod, now)
        )
        steps = _roll(_Fleet(replicas, old, leaving, desired), rollout, samples, now)
    return Steps(steps.create, steps.create_reason, swept + steps.retire)


def _hopeless(pod: PodView, image: str) -> bool:
    """A live pod whose engine does not run, while a new one would have another image: waiting for it cures nothing."""
    return pods.failing(pod) and pod.image not in ("", image)


def victims(
    candidates: Sequence[PodView], old: Sequence[PodView], samples: Mapping[str, EngineSample]
) -> list[PodView]:
    """Candidates in the order in which they retire: not ready, old revision, least in flight, highest ordinal."""
    old_names = {pod.name for pod in old}

    def order(pod: PodView) -> tuple[bool, bool, int, int]:
        flying = pods.in_flight(samples.get(pod.name))
        # A silent engine may be full of streams: it goes after those that are known to be emptier.
        load = 1 << 30 if flying is None else flying
        return (pod.ready, pod.name not in old_names, load, -names.ordinal_of(pod.name))

    return sorted(candidates, key=order)


def _resize(replicas: Sequence[PodView], desired: int, samples: Mapping[str, EngineSample]) -> Steps:
    if len(replicas) <= desired:
        missing = desired - len(replicas)
        return Steps(create=missing, create_reason=f"{len(replicas)} of {desired} replicas exist")
    surplus = len(replicas) - desired
    reason = f"{len(replicas)} replicas, {desired} desired"
    return Steps(retire=_retire(victims(replicas, (), samples)[:surplus], reason, samples))


@dataclass(frozen=True, slots=True)
class _Fleet:
    """A fleet with pods of an old revision. `leaving`: pods that drain or are being deleted."""

    replicas: Sequence[PodView]
    old: Sequence[PodView]
    leaving: int
    desired: int


def _roll(fleet: _Fleet, rollout: Rollout, samples: Mapping[str, EngineSample], now: datetime) -> Steps:
    old_names = {pod.name for pod in fleet.old}
    updated = [pod for pod in fleet.replicas if pod.name not in old_names]
    room = max(0, fleet.desired + rollout.max_surge - len(fleet.replicas) - fleet.leaving)
    create = min(room, max(0, fleet.desired - len(updated)))
    ordered = victims(fleet.old, fleet.old, samples)
    old_serving = [pod for pod in ordered if pod.ready]
    serving = sum(1 for pod in fleet.replicas if pod.ready)
    spare = max(0, serving - max(0, fleet.desired - rollout.max_unavailable))
    # Fewer replicas may be asked for in the middle of a rollout.
    surplus = max(0, len(updated) - fleet.desired)
    retire = _retire([pod for pod in ordered if not pod.ready], "old revision, not serving", samples)
    retire += _retire(old_serving[:spare], "old revision, enough others serve", samples)
    retire += _retire(victims(updated, (), samples)[:surplus], f"{fleet.desired} replicas desired", samples)
    if not retire and not fleet.leaving and create == 0 and _stuck_for_gpu(updated, now):
        retire = _retire(old_serving[:1], "no GPU is free for its replacement: replaced in place", samples)
    return Steps(create, f"rollout: {len(updated)} of {fleet.desired} replicas updated", retire)


def _stuck_for_gpu(updated: Sequence[PodView], now: datetime) -> bool:
    return any(
        pods.blocked(pod)
        and "Insufficient" in pod.unschedulable_message
        and pods.age_s(pod, now) >= pods.UNSCHEDULABLE_GRACE_S
        for pod in updated
    )


def _retire(chosen: Sequence[PodView], reason: str, samples: Mapping[str, EngineSample]) -> tuple[Retire, ...]:
    return tuple(Retire(pod, reason, at_once=serves_nobody(pod, samples.get(pod.name))) for pod in chosen)


def serves_nobody(pod: PodView, sample: EngineSample | None) -> bool:
    """Not ready, and its engine is idle or has never answered: there is no stream to wait for."""
    return not pod.ready and not pods.in_flight(sample)
