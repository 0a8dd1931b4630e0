"""A tiny cluster in memory for the operator's core: it applies plans, moves a clock, and notes every write.

Pods become ready after `boot_s`, engines serve what a test puts into them, a deleted pod goes after a second. Nodes have
`gpus` GPUs when that is set. Every rule that must never break is checked where it would break: in `apply`.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from engine_samples import buckets as one_value

from headway_operator.core import names, pods
from headway_operator.core.decide import decide
from headway_operator.core.memory import LoopMemory
from headway_operator.core.observed import (
    ClassSample,
    ContainerState,
    Defaults,
    EngineSample,
    Observed,
    OwnedObject,
    PodView,
)
from headway_operator.core.plan import (
    Action,
    AddFinalizer,
    Apply,
    DeletePod,
    Emit,
    LimitsPatch,
    MarkDraining,
    MarkServing,
    Plan,
    RemoveFinalizer,
    SetLimits,
    StartDrain,
    WriteStatus,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULTS = Defaults(engine_image="engine:1")
SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


@dataclass
class Engine:
    """One engine process: gauges that a test sets, counters that grow."""

    baseline: LimitsPatch
    effective: LimitsPatch
    boot_id: str
    running: int = 0
    waiting: int = 0
    draining: bool = False
    silent: bool = False
    revision: int = 1
    lease_until_s: float = 0.0
    received: int = 0
    finished: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    waiting_prompt_tokens: int = 0
    steps: int = 0
    step_ms: float = 0.0
    ttft: list[int] = field(default_factory=list)
    queue_wait: list[int] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)
    itl: list[int] = field(default_factory=list)
    waiting_batch: int = 0
    invalid: int = 0  # requests that could not be served
    late: int = 0  # ended after batch_deadline_ms
    classes: dict[str, ClassSample] = field(default_factory=dict)

    def record(self, kind: str, value_ms: float, count: int = 1) -> None:
        """Count a latency."""
        buckets = getattr(self, kind)
        index = len(one_value(value_ms)) - 1
        buckets.extend([0] * (index + 1 - len(buckets)))
        buckets[index] += count


@dataclass
class Pod:
    """A pod and its manifest."""

    view: PodView
    manifest: dict[str, Any]
    born_s: float
    deleted_s: float | None = None


class World:
    """One fleet and everything around it."""

    def __init__(
        self, spec: dict[str, Any], *, name: str = "chat", boot_s: float = 3.0, gpus: int | None = None
    ) -> None:
        self.manifest: dict[str, Any] = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": "default", "uid": "u-1", "generation": 1, "finalizers": []},
            "spec": spec,
        }
        self.now_s = 0.0
        self.boot_s = boot_s
        self.gpus = gpus
        self.pods: dict[str, Pod] = {}
        self.engines: dict[str, Engine] = {}
        self.samples: dict[str, list[EngineSample]] = {}
        self.children: dict[tuple[str, str], OwnedObject] = {}
        self.writes: list[Action] = []
        self.gone = False
        self.serial = 0
        self.refused = ""
        self.memory: LoopMemory | None = None  # None: the operator has just begun

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest.get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found

    def edit(self, **spec: object) -> None:
        """Change the spec as `kubectl apply` would."""
        self.manifest["spec"] = {**self.manifest["spec"], **spec}
        self.manifest["metadata"]["generation"] += 1

    def delete(self) -> None:
        self.manifest["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    def observe(self) -> Observed:
        return Observed(
            manifest=json.loads(json.dumps(self.manifest)),
            pods=tuple(pod.view for pod in self.pods.values()),
            children=tuple(self.children.values()),
            samples={name: tuple(series) for name, series in self.samples.items() if name in self.pods},
            now=self.now,
            monotonic_s=1000.0 + self.now_s,
            defaults=DEFAULTS,
            refused=self.refused,
            memory=self.memory,
        )

    def step(self, seconds: float = 1.0) -> Plan:
        """Let time pass, then run one pass and carry it out."""
        self.tick(seconds)
        return self.run()

    def run(self) -> Plan:
        plan = decide(self.observe())
        self.memory = plan.memory or self.memory
        for action in plan.actions:
            self.apply(action)
        return plan

    def settle(self, passes: int = 60, seconds: float = 1.0) -> None:
        """Passes until three in a row write nothing."""
        quiet = 0
        for _ in range(passes):
            quiet = quiet + 1 if not self.step(seconds).actions else 0
            if quiet == 3:
                return
        raise AssertionError(f"not settled after {passes} passes: {self.run().actions}")

    def live(self) -> list[str]:
        return sorted(name for name, pod in self.pods.items() if pods.live(pod.view))

    def ready(self) -> list[str]:
        return sorted(name for name, pod in self.pods.items() if pods.serving(pod.view))

    # ---- time

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        for name, pod in list(self.pods.items()):
            if pod.deleted_s is not None and self.now_s - pod.deleted_s >= 1:
                self._forget(name)
        self._schedule()
        for name, pod in self.pods.items():
            engine = self.engines.get(name)
            due = pod.view.node and not pod.view.deleting and pod.view.phase in ("Pending", "Running")
            if due and engine is None and self.now_s - pod.born_s >= self.boot_s:
                engine = self._boot(name, pod)
            if engine is None:
                continue
            ready = not engine.draining and not pod.view.deleting
            since = (pod.view.ready_since or self.now) if ready else None
            pod.view = replace(pod.view, ready=ready, ready_since=since, container=ContainerState(ready, 0))
            if engine.lease_until_s and self.now_s >= engine.lease_until_s:
                engine.effective, engine.lease_until_s = engine.baseline, 0.0
                engine.revision += 1
            if not engine.silent:
                self._sample(name, engine)

    def _schedule(self) -> None:
        used = sum(1 for pod in self.pods.values() if pod.view.node)
        for pod in self.pods.values():
            if pod.view.node or pod.view.deleting:
                continue
            if self.gpus is None or used < self.gpus:
                used += 1
                pod.born_s = self.now_s
                pod.view = replace(pod.view, node="node-1", unschedulable_message="")
            else:
                pod.view = replace(pod.view, unschedulable_message=SCHEDULER)

    def _boot(self, name: str, pod: Pod) -> Engine:
        flags = dict(arg[2:].split("=", 1) for arg in pod.manifest["spec"]["containers"][0]["args"])
        limits = LimitsPatch(
            int(flags["max-num-seqs"]),
            int(flags["max-num-batched-tokens"]),
            int(flags["batch-wait-ms"]),
            int(flags["max-queued-requests"]),
            flags.get("batching-mode", "continuous"),
            flags.get("profile", "throughput"),
            int(flags.get("itl-target-ms", 50)),
            flags.get("default-class", "interactive"),
            int(flags.get("reserved-percent", 0)),
            int(flags.get("max-queued-batch-requests", 0)),
            batch_deadline_ms=0,  # no flags: these are only told live
            interactive_itl_target_ms=0,
            batch_itl_target_ms=0,
            ttft_target_ms=0,
            interactive_ttft_target_ms=0,
        )
        pod.view = replace(pod.view, phase="Running", ip="10.0.0.1")
        self.serial += 1
        engine = self.engines[name] = Engine(limits, limits, boot_id=f"boot-{self.serial}")
        return engine

    def _sample(self, name: str, engine: Engine) -> None:
        series = self.samples.setdefault(name, [])
        series.append(
            EngineSample(
                taken_s=1000.0 + self.now_s,
                boot_id=engine.boot_id,
                num_running=engine.running,
                num_waiting=engine.waiting,
                waiting_prompt_tokens=engine.waiting_prompt_tokens,
                kv_usage=0.1,
                draining=engine.draining,
                ttft=tuple(engine.ttft),
                queue_wait=tuple(engine.queue_wait),
                prefill=tuple(engine.prefill),
                itl=tuple(engine.itl),
                step=(),
                requests_received=engine.received + engine.invalid,
                requests_finished=engine.finished,
                requests_rejected=engine.invalid,
                prompt_tokens=engine.prompt_tokens,
                generation_tokens=engine.tokens,
                preemptions=0,
                revision=engine.revision,
                effective=engine.effective,
                baseline=engine.baseline,
                classes=dict(engine.classes),
                num_waiting_batch=engine.waiting_batch,
                lease_remaining_s=max(0.0, engine.lease_until_s - self.now_s),
                steps=engine.steps,
                step_sum_ms=engine.step_ms,
                kv_tokens=4096,
            )
        )
        del series[:-80]

    def _forget(self, name: str) -> None:
        del self.pods[name]
        self.engines.pop(name, None)
        self.samples.pop(name, None)

    # ---- writes

    def apply(self, action: Action) -> None:
        self.writes.append(action)
        match action:
            case AddFinalizer():
                self.manifest["metadata"]["finalizers"].append(names.FINALIZER)
            case RemoveFinalizer():
                left = [name for name, pod in self.pods.items() if not pods.abandoned(pod.view, self.now)]
                assert not left, "the finalizer went before the pods"
                self.gone = True
            case WriteStatus(status=status):
                self.manifest["status"] = json.loads(json.dumps(status))
            case Apply(manifest=manifest):
                self._apply_object(json.loads(json.dumps(manifest)))
            case MarkDraining() | MarkServing():
                self._mark(action)
            case StartDrain(pod=name):
                self.engines[name].draining = True
            case DeletePod():
                self._delete_pod(action)
            case SetLimits():
                self._set_limits(action)
            case Emit():
                pass

    def _mark(self, action: MarkDraining | MarkServing) -> None:
        pod = self.pods[action.pod]
        assert pod.view.uid == action.uid
        labels = {**pod.view.labels, names.LABEL_SERVING: "true" if isinstance(action, MarkServing) else "false"}
        annotations = pod.view.annotations
        if isinstance(action, MarkDraining):
            marks = {names.ANNOTATION_DRAIN_STARTED: action.started, names.ANNOTATION_DRAIN_REASON: action.reason}
            annotations = {**annotations, **marks}
        pod.view = replace(pod.view, annotations=annotations, labels=labels)

    def _apply_object(self, manifest: dict[str, Any]) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind != "Pod":
            found = self.children.get((kind, name))
            assert found is None or found.controlled, f"{kind} {name} is not ours"
            self.children[kind, name] = OwnedObject(kind, name, f"u-{kind}-{name}", controlled=True, manifest=manifest)
            return
        assert name not in self.pods, f"pod {name} exists"
        self.serial += 1
        view = PodView(
            name=name,
            uid=f"pod-{self.serial}",
            labels=manifest["metadata"]["labels"],
            annotations=manifest["metadata"].get("annotations", {}),
            phase="Pending",
            ready=False,
            ip="",
            node="",
            created=self.now,
            deleting=False,
        )
        self.pods[name] = Pod(view, manifest, self.now_s)

    def _delete_pod(self, action: DeletePod) -> None:
        pod = self.pods[action.pod]
        assert pod.view.uid == action.uid
        assert not pods.serving(pod.view), f"{action.pod} serves and was not drained"
        engine = self.engines.get(action.pod)
        flying = engine is not None and not engine.silent and engine.running + engine.waiting > 0
        assert not flying or action.grace_s is not None, f"{action.pod} has streams in flight"
        pod.view = replace(pod.view, deleting=True, ready=False)
        pod.deleted_s = self.now_s

    def _set_limits(self, action: SetLimits) -> None:
        engine = self.engines[action.pod]
        assert action.expected_revision == engine.revision, "stale revision"
        limits = action.limits
        assert limits.max_num_seqs is not None
        assert limits.max_num_batched_tokens is not None
        assert limits.max_num_seqs <= limits.max_num_batched_tokens
        if engine.effective != limits or (action.lease_s == 0 and engine.baseline != limits):
            engine.revision += 1
        engine.effective = limits
        if action.lease_s == 0:
            engine.baseline = limits
        engine.lease_until_s = self.now_s + action.lease_s if action.lease_s else 0.0
        if action.pod in self.samples:  # the shell does the same with the engine's answer
            self.samples[action.pod].append(
                replace(
                    self.samples[action.pod][-1],
                    revision=engine.revision,
                    effective=engine.effective,
                    baseline=engine.baseline,
                    lease_remaining_s=float(action.lease_s),
                )
            )


def spec(**overrides: object) -> dict[str, Any]:
    """A small valid spec on cpu."""
    base: dict[str, Any] = {
        "model": {"source": {"packed": {"path": "/models/smol.gguf"}}},
        "engine": {
            "device": "cpu",
            "capacity": {"maxNumSeqs": 16, "maxNumBatchedTokens": 256},
            "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64},
        },
        "slo": {"workloadClass": "interactive", "windowSeconds": 30},
        "drain": {"timeoutSeconds": 60, "endpointRemovalDelaySeconds": 2},
    }
    return {**base, **overrides}
