"""The only writer: runs a plan's actions one at a time, in order.

A failure of the API server ends the plan: what follows may rest on the write that failed, and the next pass starts from
fresh reads anyway. Three failures do not end it. An Event that cannot be posted is only a lost message. An engine that does
not answer blocks nothing but the later actions on its own pod: one silent engine must not stop the fleet. A pod that the
API server will not have (a quota, say) holds up the creation of other pods only: those that run still want their limits. A
pod whose name is taken is left to the next pass, which avoids that name.

Pods are created, never applied: an apply would write over what has the name already, a pod that somebody took out of the
fleet by its label, say.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from headway_operator.core import names
from headway_operator.core.observed import Observed, PodView
from headway_operator.core.plan import (
    Action,
    AddFinalizer,
    Apply,
    DeletePod,
    Emit,
    Json,
    MarkDraining,
    MarkServing,
    Plan,
    RemoveFinalizer,
    SetLimits,
    StartDrain,
    WriteStatus,
)
from headway_operator.shell.engines import EngineControl, EngineError
from headway_operator.shell.events import EventSink
from headway_operator.shell.kube import Failure, FleetKey, KubeApi, KubeError, Ref, list_at, text_at

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Result:
    """What became of a plan.

    Attributes:
        done: the actions that were carried out.
        failed: the action that ended the plan, with `error`; None when none did.
        error: why it failed.
        engine_failures: control calls that failed, as sentences; the plan went on.
        refused: why the API server would not have a pod; the plan went on without further pods.
        taken: names of pods that could not be created because another object has them.
    """

    done: list[Action] = field(default_factory=list)
    failed: Action | None = None
    error: KubeError | None = None
    engine_failures: list[str] = field(default_factory=list)
    refused: str = ""
    taken: list[str] = field(default_factory=list)

    @property
    def created_pod(self) -> bool:
        """Did the API server take a pod?"""
        return any(_creates_pod(action) for action in self.done)


class Executor:
    """Carries out plans.

    Args:
        kube: where objects are written.
        engines: where limits and drains are sent.
        events: where Events go.
    """

    def __init__(self, kube: KubeApi, engines: EngineControl, events: EventSink) -> None:
        self._kube = kube
        self._engines = engines
        self._events = events

    async def execute(self, key: FleetKey, plan: Plan, observed: Observed) -> Result:
        """Run a plan that was decided on `observed`."""
        result = Result()
        silent: set[str] = set()
        pods = {pod.name: pod for pod in observed.pods}
        for action in plan.actions:
            pod = _pod_of(action)
            if pod in silent or (result.refused and _creates_pod(action)):
                continue
            try:
                await self._perform(key, action, observed, pods)
            except KubeError as error:
                if _creates_pod(action) and error.failure is Failure.PERMANENT:
                    result.refused = error.said
                    continue
                if _creates_pod(action) and error.failure is Failure.CONFLICT:
                    result.taken.append(_name(action))
                    continue
                result.failed, result.error = action, error
                return result
            except EngineError as error:
                silent.add(pod)
                result.engine_failures.append(f"{type(action).__name__} {pod}: {error}")
                continue
            log.info("%s: %s: %s", key, _describe(action), action.reason)
            result.done.append(action)
        return result

    async def _perform(self, key: FleetKey, action: Action, observed: Observed, pods: Mapping[str, PodView]) -> None:
        """One action, one write. `pods`: the observed ones by name."""
        match action:
            case Apply(manifest=manifest):
                await (self._kube.create if _creates_pod(action) else self._kube.apply)(manifest)
            case MarkDraining() | MarkServing():
                await self._kube.patch(Ref("Pod", key.namespace, action.pod), _mark_patch(action))
            case StartDrain(pod=pod, deadline_s=deadline_s):
                await self._engines.start_drain(_view(pods, pod), deadline_s)
            case DeletePod(pod=pod, uid=uid, grace_s=grace_s):
                await self._delete(Ref("Pod", key.namespace, pod), uid, grace_s)
            case SetLimits(pod=pod, limits=limits, lease_s=lease_s, expected_revision=revision):
                await self._engines.set_limits(_view(pods, pod), limits, lease_s, revision)
            case AddFinalizer():
                finalizers = list_at(observed.manifest, "metadata", "finalizers")
                await self._kube.patch(key.ref, _finalizer_patch(observed, [*finalizers, names.FINALIZER]))
            case RemoveFinalizer():
                await self._remove_finalizer(key, observed)
            case WriteStatus(status=status):
                await self._kube.apply(
                    {
                        "kind": key.ref.kind,
                        # The uid keeps the status of a deleted fleet off its successor of the same name.
                        "metadata": {**_identity(key), "uid": text_at(observed.manifest, "metadata", "uid")},
                        "status": dict(status),
                    },
                    subresource="status",
                )
            case Emit(type=kind, event_reason=reason, reason=message):
                await self._events.emit(key.ref, observed.manifest, kind, reason, message)
            case _:
                assert_never(action)

    async def _delete(self, ref: Ref, uid: str, grace_s: int | None) -> None:
        try:
            await self._kube.delete(ref, uid, grace_s)
        except KubeError as error:
            if error.failure is not Failure.NOT_FOUND:  # gone already is what we wanted
                raise

    async def _remove_finalizer(self, key: FleetKey, observed: Observed) -> None:
        rest = [name for name in list_at(observed.manifest, "metadata", "finalizers") if name != names.FINALIZER]
        try:
            await self._kube.patch(key.ref, _finalizer_patch(observed, rest))
        except KubeError as error:
            if error.failure is not Failure.NOT_FOUND:
                raise


def _mark_patch(action: MarkDraining | MarkServing) -> dict[str, Json]:
    if isinstance(action, MarkServing):
        return {"metadata": {"uid": action.uid, "labels": {names.LABEL_SERVING: "true"}}}
    return {
        "metadata": {
            "uid": action.uid,
            "labels": {names.LABEL_SERVING: "false"},
            "annotations": {
                names.ANNOTATION_DRAIN_STARTED: action.started,
                names.ANNOTATION_DRAIN_REASON: action.reason,
            },
        }
    }


def _finalizer_patch(observed: Observed, finalizers: list[Json]) -> dict[str, Json]:
    """The whole list, guarded by the resourceVersion: a merge patch would drop a finalizer that others just added."""
    return {
        "metadata": {
            "uid": text_at(observed.manifest, "metadata", "uid"),
            "resourceVersion": text_at(observed.manifest, "metadata", "resourceVersion"),
            "finalizers": finalizers,
        }
    }


def _identity(key: FleetKey) -> dict[str, Json]:
    return {"name": key.name, "namespace": key.namespace}


def _view(pods: Mapping[str, PodView], name: str) -> PodView:
    if name not in pods:
        raise EngineError("NO_ADDRESS", f"pod {name} was not among the observed pods")
    return pods[name]


def _pod_of(action: Action) -> str:
    """The pod an action is about, "" for all others."""
    match action:
        case MarkDraining() | MarkServing() | StartDrain() | DeletePod() | SetLimits():
            return action.pod
        case _:
            return ""


def _creates_pod(action: Action) -> bool:
    return isinstance(action, Apply) and text_at(action.manifest, "kind") == "Pod"


def _name(action: Action) -> str:
    return text_at(action.manifest, "metadata", "name") if isinstance(action, Apply) else _pod_of(action)


def _describe(action: Action) -> str:
    name = type(action).__name__
    match action:
        case Apply(manifest=manifest):
            return f"{name} {text_at(manifest, 'kind')}/{_name(action)}"
        case _:
            return f"{name} {_pod_of(action)}".rstrip()
