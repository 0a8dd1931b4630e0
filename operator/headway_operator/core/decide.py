"""`decide(observed) -> Plan`: one pass over one fleet.

The order of a plan is part of the decision. The status comes first: a count or a limit is written down before a pod or an
engine sees it, so an operator that takes over goes on where this one stopped. Then the children, the pods, the limits.
While a spec is refused the fleet runs with the one that was accepted last; `paused` leaves everything that runs as it is.
Deletion drains every pod and then lets the object go.
"""

from dataclasses import replace

from headway_operator.api.conditions import ConditionType
from headway_operator.api.parse import parse_status
from headway_operator.api.v1alpha1 import Drain, LLMDeployment, ScalingMode
from headway_operator.core import (
    deletion,
    desired,
    diff,
    drain,
    findings,
    names,
    objectives,
    pods,
    podspec,
    report,
    rollout,
    scaling,
    schedule,
    status,
    tuning,
    validation,
)
from headway_operator.core.load import fleet_load, of_class
from headway_operator.core.loop import Facts, decide_loop
from headway_operator.core.observed import Observed
from headway_operator.core.plan import (
    BUSY_S,
    DRAINING_S,
    IDLE_S,
    Action,
    AddFinalizer,
    Apply,
    Json,
    MarkServing,
    Plan,
)
from headway_operator.core.validation import Refused
from headway_operator.core.view import Situation

DEFAULT_WINDOW_S = 60.0  # of the status, without an objective


def decide(observed: Observed) -> Plan:
    """What to do for this fleet now, and when to look again."""
    judged = validation.judge(observed.manifest)
    if observed.deleting:
        return deletion.plan(observed, Drain() if isinstance(judged, Refused) else judged.fleet.spec.drain)
    if isinstance(judged, Refused):
        return _refuse(observed, judged)
    # The children are built from a spec that is known to be sound.
    fleet = judged.fleet
    children = desired.children(fleet, scaling.manual_replicas(fleet))
    refused = judged.refused or validation.conflict(observed.children, children)
    if refused is not None and fleet.status.last_accepted is None:
        return _refuse(observed, refused)
    return _run(_situation(observed, fleet, refused))


def _situation(observed: Observed, fleet: LLMDeployment, refused: Refused | None) -> Situation:
    current = schedule.effective(fleet.spec, observed.now)
    fleet, windows = fleet.model_copy(update={"spec": current.spec}), current.status
    spec, now_s = fleet.spec, observed.monotonic_s
    live = tuple(pod for pod in observed.pods if pods.live(pod))
    takers = tuple(pod for pod in live if pod.ready)
    serving = [pod.name for pod in takers]
    slo = spec.slo
    shares = objectives.shares(slo)
    window_s = float(slo.window_seconds) if slo else DEFAULT_WINDOW_S
    load = fleet_load(serving, observed.samples, now_s, window_s, shares)
    verdict = objectives.verdict(slo, load.classes)
    judgement = verdict.judgement
    if judgement is not None and slo is not None:
        load = of_class(load, judgement.own(slo))
    revision = podspec.revision(spec)
    looped = decide_loop(observed, fleet, Facts(load, takers, shares, revision, window_s, verdict))
    replicas = scaling.decided(fleet, looped.control.scale)
    if judgement is not None and replicas.decision is not None:
        replicas = replace(replicas, reason=judgement.naming(replicas.reason))
    replicas = replace(replicas, reason=schedule.naming(replicas.reason, windows, "replicas", "scaling"))
    limits = tuning.decided(fleet, looped.control.tune)
    others = (pod for pod in observed.pods if pod.name not in load.latest)
    samples = {**load.latest, **pods.fresh_samples(observed.samples, others, now_s)}
    return Situation(
        observed=observed,
        fleet=fleet,
        live=live,
        serving=takers,
        revision=revision,
        samples=samples,
        load=load,
        replicas=replicas,
        limits=replace(limits, reason=schedule.naming(limits.reason, windows, "limits")),
        steps=rollout.next_steps(
            observed.pods,
            rollout.Wanted(replicas.desired, revision, podspec.image(spec.engine, observed.defaults)),
            spec.rollout,
            samples,
            observed.now,
        ),
        schedule=windows,
        memory=looped.memory,
        verdict=verdict,
        outlook=looped.outlook,
        refused=refused,
    )


def _run(situation: Situation) -> Plan:
    observed, fleet = situation.observed, situation.fleet
    after = status.next_status(situation)
    actions: list[Action] = []
    acts = not fleet.spec.paused
    if acts and names.FINALIZER not in observed.finalizers:
        actions.append(AddFinalizer("pods must be drained before the fleet may go"))
    actions += report.changes(fleet.status, after)
    if acts:
        actions += _children(situation)
        actions += _pods(situation)
        targets = [pod for pod in situation.live if pod.ip]
        calls = tuning.actions(situation.limits, targets, situation.samples, fleet.spec.tuning.lease_seconds)
        actions += [call for call in calls if call.pod not in situation.contested]
    wait_s = _requeue_s(situation)
    change = situation.schedule.next_change_time if situation.schedule else None
    if change is not None:
        wait_s = min(wait_s, max(1.0, (change - observed.now).total_seconds()))
    return Plan(tuple(actions), wait_s, situation.memory)


def _children(situation: Situation) -> list[Action]:
    live = {(child.kind, child.name): child for child in situation.observed.children}
    actions: list[Action] = []
    for manifest in desired.children(situation.fleet, situation.replicas.desired):
        kind, name = str(manifest["kind"]), _name(manifest)
        found = live.get((kind, name))
        if found is None:
            actions.append(Apply(manifest, f"{kind} {name} is missing"))
            continue
        path = diff.first_difference(manifest, found.manifest) if found.controlled else None
        if path is not None:
            actions.append(Apply(manifest, f"{kind} {name} differs in {path}"))
    return actions


def _pods(situation: Situation) -> list[Action]:
    observed, fleet, steps = situation.observed, situation.fleet, situation.steps
    actions: list[Action] = []
    for pod in situation.draining:
        elapsed_s = drain.elapsed_s(pod, situation.memory.stamps, observed.monotonic_s)
        actions += drain.advance(pod, situation.samples.get(pod.name), fleet.spec.drain, elapsed_s, observed.now)
    retired = {retire.pod.name for retire in steps.retire}
    actions += [
        MarkServing(pod.name, pod.uid, f"pod {pod.name} lost the label {names.LABEL_SERVING}=true")
        for pod in situation.live
        if pod.name not in retired and not names.in_endpoints(pod.labels)
    ]
    actions += drain.start(steps.retire, observed.now)
    if observed.hold_creation or not steps.create:
        return actions
    taken = [*observed.taken, *(pod.name for pod in observed.pods)]
    owner = desired.owner_reference(fleet)
    for name in names.free_names(fleet.metadata.name, situation.revision, taken, steps.create):
        manifest = podspec.pod_manifest(fleet, name, situation.limits.effective, observed.defaults, owner)
        actions.append(Apply(manifest, steps.create_reason))
    return actions


def _requeue_s(situation: Situation) -> float:
    decision = situation.replicas.decision
    if situation.draining:
        return DRAINING_S
    pending = (
        decision is not None and situation.fleet.spec.scaling.mode is ScalingMode.AUTO and decision.since_s is not None
    )
    unsettled = len(situation.live) != situation.replicas.desired or len(situation.serving) < len(situation.live)
    lent = situation.limits.effective != situation.limits.baseline
    busy = situation.load.view.active or (not situation.load.view.quiet and situation.serving)
    return BUSY_S if unsettled or pending or lent or busy or situation.rolling else IDLE_S


def _refuse(observed: Observed, refused: Refused) -> Plan:
    """Say why nothing is done: no spec was ever accepted. The next edit wakes us; until then there is nothing to retry."""
    accepted = findings.accepted(refused, None)
    ready = replace(accepted, type=ConditionType.READY)  # `kubectl get` shows the reason of this one
    return Plan(tuple(report.findings(observed, parse_status(observed.manifest), (accepted, ready))), IDLE_S)


def _name(manifest: dict[str, Json]) -> str:
    metadata = manifest["metadata"]
    return str(metadata["name"]) if isinstance(metadata, dict) else ""
