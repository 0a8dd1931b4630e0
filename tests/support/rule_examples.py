"""One accepted and one refused example for every CEL rule of the CRD, as minimal changes of a valid manifest.

A change maps a dotted path to a value; `DROP` removes the field. Each refused example breaks its own rule and no other:
the API server stops checking rules once the schema is broken, and a second broken rule would hide a dead one.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DROP: Final = object()
Change = Mapping[str, Any]

VALID: Mapping[str, Any] = {
    "apiVersion": "serving.headway.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "chat"},
    "spec": {
        "model": {"source": {"packed": {"path": "/models/smollm2.gguf"}}},
        "engine": {"capacity": {"maxNumSeqs": 32, "maxNumBatchedTokens": 512}},
    },
}

SLO: Change = {"spec.slo": {"workloadClass": "interactive"}}
TUNED: Change = {**SLO, "spec.tuning.mode": "Auto"}


@dataclass(frozen=True, slots=True)
class Example:
    """One CEL rule at work.

    Attributes:
        place: the schema path of the rule's object, in the words of the API server's errors.
        message: the rule's message as in the CRD.
        accepted: a change that the rule looks at and lets pass.
        refused: a change that breaks this rule alone.
        shown: what the user reads; the rule's message unless it shows numbers.
    """

    place: str
    message: str
    accepted: Change
    refused: Change
    shown: str = ""


def changed(*changes: Change) -> dict[str, Any]:
    """A manifest: the valid one with the changes made."""
    manifest = copy.deepcopy(dict(VALID))
    for change in changes:
        for path, value in change.items():
            *parents, last = path.split(".")
            target = manifest
            for parent in parents:
                target = target.setdefault(parent, {})
            if value is DROP:
                del target[last]
            else:
                target[last] = copy.deepcopy(value)
    return manifest


def _source(**source: Any) -> Change:
    return {"spec.model.source": source}


def _classes(own: str, other: Mapping[str, Any]) -> Change:
    return {"spec.slo": {"workloadClass": own, "classes": [other]}}


def _deadline(place: str, objective: Mapping[str, Any]) -> Change:
    return {"spec.slo": objective} if place == "spec.slo" else _classes("realtime", objective)


def _bounds(field: str, low: int, high: int) -> Change:
    return {f"spec.tuning.bounds.{field}": {"min": low, "max": high}}


def _window(**overrides: Any) -> Change:
    return {"spec.schedules": [{"name": "night", "cron": "0 22 * * *", "durationSeconds": 3600, **overrides}]}


_RELATIVE = "path must be relative to the volume and must not contain '..'"
_ABSOLUTE = "path must be absolute (begin with '/') and must not contain '..'"
_TOKENS = "(a decode step needs one token per sequence)"

EXAMPLES: tuple[Example, ...] = (
    Example(
        "",
        "metadata.name must be at most 46 characters (the names of child objects add a suffix)",
        {"metadata.name": "a" * 46},
        {"metadata.name": "a" * 47},
    ),
    Example(
        "",
        "metadata.name must begin with a letter and hold only a-z, 0-9 and '-' (a Service is named after it)",
        {"metadata.name": "chat-7b"},
        {"metadata.name": "7b.chat"},
    ),
    Example(
        "spec.model.servedName",
        "spec.model.servedName must hold no control characters (line breaks, tabs): clients write it into a request's `model`",
        {"spec.model.servedName": "Qwen/Qwen3 32B (fp8), größer"},
        {"spec.model.servedName": "qwen\nready: true"},
    ),
    Example(
        "spec.model.source",
        "exactly one of spec.model.source.pvc, hostPath, image, packed must be set",
        _source(hostPath={"path": "/srv/model"}),
        _source(hostPath={"path": "/srv/model"}, packed={"path": "/models/x.gguf"}),
    ),
    Example(
        "spec.model.source.pvc.path",
        _RELATIVE,
        _source(pvc={"claimName": "weights", "path": "llama..3/x.gguf"}),
        _source(pvc={"claimName": "weights", "path": "/llama"}),
    ),
    Example(
        "spec.model.source.image.path",
        _RELATIVE,
        _source(image={"reference": "models/x:1", "path": "llama/8b"}),
        _source(image={"reference": "models/x:1", "path": "llama/../.."}),
    ),
    Example(
        "spec.model.source.hostPath.path",
        _ABSOLUTE,
        _source(hostPath={"path": "/srv/model.d/..x"}),
        _source(hostPath={"path": "srv/model"}),
    ),
    Example(
        "spec.model.source.packed.path",
        _ABSOLUTE,
        _source(packed={"path": "/models/x.gguf"}),
        _source(packed={"path": "/models/../etc"}),
    ),
    Example(
        "spec.engine.capacity",
        f"capacity.maxNumBatchedTokens must be at least capacity.maxNumSeqs {_TOKENS}",
        {"spec.engine.capacity.maxNumBatchedTokens": 32},
        {"spec.engine.capacity.maxNumBatchedTokens": 31},
    ),
    Example(
        "spec.engine.limits",
        f"limits.maxNumBatchedTokens must be at least limits.maxNumSeqs {_TOKENS}",
        {"spec.engine.limits": {"maxNumSeqs": 16, "maxNumBatchedTokens": 16}},
        {"spec.engine.limits": {"maxNumSeqs": 16, "maxNumBatchedTokens": 15}},
    ),
    Example(
        "spec.engine",
        "limits.maxNumSeqs cannot exceed capacity.maxNumSeqs",
        {"spec.engine.limits.maxNumSeqs": 32},
        {"spec.engine.limits.maxNumSeqs": 33},
        "limits.maxNumSeqs cannot exceed capacity.maxNumSeqs (32)",
    ),
    Example(
        "spec.engine",
        "limits.maxNumBatchedTokens cannot exceed capacity.maxNumBatchedTokens",
        {"spec.engine.limits.maxNumBatchedTokens": 512},
        {"spec.engine.limits.maxNumBatchedTokens": 513},
        "limits.maxNumBatchedTokens cannot exceed capacity.maxNumBatchedTokens (512)",
    ),
    Example(
        "spec.engine",
        "limits.maxQueuedRequests cannot exceed capacity.maxQueuedRequests",
        {"spec.engine.limits.maxQueuedRequests": 1024},
        {"spec.engine.limits.maxQueuedRequests": 1025},
        "limits.maxQueuedRequests cannot exceed capacity.maxQueuedRequests (1024)",
    ),
    Example(
        "spec",
        f"engine.limits.maxNumBatchedTokens must be at least the sequences at once {_TOKENS}, which are, while "
        "engine.limits.maxNumSeqs is not set, engine.capacity.maxNumSeqs, with tuning no more than "
        "tuning.bounds.maxNumSeqs.max, in class realtime no more than 4",
        {"spec.slo": {"workloadClass": "realtime"}, "spec.engine.limits.maxNumBatchedTokens": 4},
        {"spec.slo": {"workloadClass": "interactive"}, "spec.engine.limits.maxNumBatchedTokens": 31},
    ),
    Example(
        "spec.engine",
        "engine.resources must not name nvidia.com/gpu when engine.device is cpu",
        {"spec.engine.device": "cpu", "spec.engine.resources.limits": {"cpu": "700m"}},
        {"spec.engine.device": "cpu", "spec.engine.resources.requests": {"nvidia.com/gpu": 1}},
    ),
    Example(
        "spec.engine",
        "limits.maxQueuedBatchRequests cannot exceed capacity.maxQueuedRequests",
        {"spec.engine.capacity.maxQueuedRequests": 8, "spec.engine.limits.maxQueuedBatchRequests": 8},
        {"spec.engine.capacity.maxQueuedRequests": 8, "spec.engine.limits.maxQueuedBatchRequests": 9},
        "limits.maxQueuedBatchRequests cannot exceed capacity.maxQueuedRequests (8)",
    ),
    Example(
        "spec.engine",
        "engine.dtype float16 needs engine.device cuda; on cpu use auto, float32, bfloat16 or int8",
        {"spec.engine.device": "cuda", "spec.engine.dtype": "float16"},
        {"spec.engine.device": "cpu", "spec.engine.dtype": "float16"},
    ),
    Example(
        "spec.engine",
        "engine.dtype int8 needs engine.device cpu; on cuda use auto, float32, bfloat16 or float16",
        {"spec.engine.device": "cpu", "spec.engine.dtype": "int8"},
        {"spec.engine.device": "cuda", "spec.engine.dtype": "int8"},
    ),
    *(
        Example(place, message, _deadline(place, accepted), _deadline(place, refused))
        for place, owner in (("spec.slo", "slo"), ("spec.slo.classes[0]", "slo.classes[]"))
        for message, accepted, refused in (
            (
                f"{owner}.deadlineSeconds needs workloadClass batch: requests of other classes have a reader who waits",
                {"workloadClass": "batch", "deadlineSeconds": 60},
                {"workloadClass": "interactive", "deadlineSeconds": 60},
            ),
            (
                f"{owner}.deadlineSeconds and {owner}.ttft exclude each other: a deadline takes the place of that target",
                {"workloadClass": "batch", "ttft": {"targetMilliseconds": 2001}},
                {"workloadClass": "batch", "ttft": {"targetMilliseconds": 2001}, "deadlineSeconds": 60},
            ),
        )
    ),
    Example(
        "spec.slo",
        "workloadClass realtime needs slo.ttft.targetMilliseconds below 500",
        {"spec.slo": {"workloadClass": "realtime", "ttft": {"targetMilliseconds": 499}}},
        {"spec.slo": {"workloadClass": "realtime", "ttft": {"targetMilliseconds": 500}}},
    ),
    Example(
        "spec.slo",
        "workloadClass interactive needs slo.ttft.targetMilliseconds from 500 to 2000",
        {"spec.slo": {"workloadClass": "interactive", "ttft": {"targetMilliseconds": 2000}}},
        {"spec.slo": {"workloadClass": "interactive", "ttft": {"targetMilliseconds": 2001}}},
    ),
    Example(
        "spec.slo",
        "workloadClass batch needs slo.ttft.targetMilliseconds above 2000",
        {"spec.slo": {"workloadClass": "batch", "ttft": {"targetMilliseconds": 2001}}},
        {"spec.slo": {"workloadClass": "batch", "ttft": {"targetMilliseconds": 2000}}},
    ),
    *(
        Example(
            "spec.slo.classes[0]",
            f"workloadClass {kind} needs slo.classes[].ttft.targetMilliseconds {range_}",
            _classes(own, {"workloadClass": kind, "ttft": {"targetMilliseconds": good}}),
            _classes(own, {"workloadClass": kind, "ttft": {"targetMilliseconds": bad}}),
        )
        for own, kind, range_, good, bad in (
            ("interactive", "realtime", "below 500", 499, 500),
            ("realtime", "interactive", "from 500 to 2000", 2000, 2001),
            ("realtime", "batch", "above 2000", 2001, 2000),
        )
    ),
    Example(
        "spec.slo",
        "slo.classes must not name slo.workloadClass again: its targets are slo.ttft and slo.interTokenLatency",
        _classes("interactive", {"workloadClass": "batch"}),
        _classes("interactive", {"workloadClass": "interactive"}),
    ),
    Example(
        "spec.slo",
        "interTokenLatency targets must not fall from realtime to interactive to batch (defaults: 50, 100, 500 ms)",
        _classes("interactive", {"workloadClass": "batch", "interTokenLatency": {"targetMilliseconds": 100}}),
        _classes("interactive", {"workloadClass": "batch", "interTokenLatency": {"targetMilliseconds": 99}}),
    ),
    Example(
        "spec.scaling",
        "scaling.maxReplicas is required when scaling.mode is Auto or Advisory",
        {**SLO, "spec.scaling": {"mode": "Advisory", "maxReplicas": 3}},
        {**SLO, "spec.scaling": {"mode": "Advisory"}},
    ),
    Example(
        "spec.scaling",
        "scaling.minReplicas cannot exceed scaling.maxReplicas",
        {"spec.scaling": {"minReplicas": 3, "maxReplicas": 3}},
        {"spec.scaling": {"minReplicas": 4, "maxReplicas": 3}},
        "scaling.minReplicas cannot exceed scaling.maxReplicas (3)",
    ),
    Example(
        "spec.tuning.bounds.maxNumSeqs",
        "min cannot exceed max",
        _bounds("maxNumSeqs", 8, 8),
        _bounds("maxNumSeqs", 9, 8),
        "min cannot exceed max (8)",
    ),
    Example(
        "spec.tuning.bounds.maxNumBatchedTokens",
        "min cannot exceed max",
        _bounds("maxNumBatchedTokens", 64, 64),
        _bounds("maxNumBatchedTokens", 65, 64),
        "min cannot exceed max (64)",
    ),
    Example(
        "spec.tuning.bounds",
        f"tuning.bounds.maxNumBatchedTokens.max must be at least tuning.bounds.maxNumSeqs.min {_TOKENS}",
        {**_bounds("maxNumSeqs", 16, 32), **_bounds("maxNumBatchedTokens", 1, 16)},
        {**_bounds("maxNumSeqs", 16, 32), **_bounds("maxNumBatchedTokens", 1, 15)},
    ),
    Example(
        "spec.rollout",
        "rollout.maxSurge and rollout.maxUnavailable cannot both be 0",
        {"spec.rollout": {"maxSurge": 0, "maxUnavailable": 1}},
        {"spec.rollout": {"maxSurge": 0}},
    ),
    Example(
        "spec",
        "spec.replicas must be unset when spec.scaling.mode is Auto (the operator owns the count); "
        "use mode Off, Advisory or External to set it",
        {**SLO, "spec.scaling": {"mode": "Auto", "maxReplicas": 3}},
        {**SLO, "spec.scaling": {"mode": "Auto", "maxReplicas": 3}, "spec.replicas": 2},
    ),
    Example(
        "spec",
        "spec.replicas must be set when spec.scaling.mode is External (reading /scale fails on an absent value)",
        {"spec.scaling.mode": "External", "spec.replicas": 0},
        {"spec.scaling.mode": "External"},
    ),
    Example(
        "spec",
        "spec.slo is required when spec.scaling.mode is Auto or Advisory (it is what the fleet is scaled for)",
        {**SLO, "spec.scaling": {"mode": "Auto", "maxReplicas": 3}},
        {"spec.scaling": {"mode": "Auto", "maxReplicas": 3}},
    ),
    Example(
        "spec",
        "spec.slo is required when spec.tuning.mode is Auto or Advisory (it is what the limits are tuned for)",
        {**SLO, "spec.tuning.mode": "Advisory"},
        {"spec.tuning.mode": "Advisory"},
    ),
    Example(
        "spec",
        "tuning.bounds.maxNumSeqs.max cannot exceed engine.capacity.maxNumSeqs",
        _bounds("maxNumSeqs", 1, 32),
        _bounds("maxNumSeqs", 1, 33),
        "tuning.bounds.maxNumSeqs.max cannot exceed engine.capacity.maxNumSeqs (32)",
    ),
    Example(
        "spec",
        "tuning.bounds.maxNumBatchedTokens.max cannot exceed engine.capacity.maxNumBatchedTokens",
        _bounds("maxNumBatchedTokens", 1, 512),
        _bounds("maxNumBatchedTokens", 1, 513),
        "tuning.bounds.maxNumBatchedTokens.max cannot exceed engine.capacity.maxNumBatchedTokens (512)",
    ),
    Example(
        "spec",
        "engine.limits.maxNumSeqs must lie inside tuning.bounds.maxNumSeqs",
        {**TUNED, **_bounds("maxNumSeqs", 4, 16), "spec.engine.limits.maxNumSeqs": 4},
        {**TUNED, **_bounds("maxNumSeqs", 4, 16), "spec.engine.limits.maxNumSeqs": 17},
        "engine.limits.maxNumSeqs must lie inside tuning.bounds.maxNumSeqs (4 to 16)",
    ),
    Example(
        "spec",
        "engine.limits.maxNumBatchedTokens must lie inside tuning.bounds.maxNumBatchedTokens",
        {**TUNED, **_bounds("maxNumBatchedTokens", 64, 512), "spec.engine.limits.maxNumBatchedTokens": 64},
        {
            **TUNED,
            **_bounds("maxNumBatchedTokens", 64, 512),
            "spec.engine.limits.maxNumBatchedTokens": 63,
            "spec.engine.limits.maxNumSeqs": 32,
        },
        "tuning.bounds.maxNumBatchedTokens (64 to 512)",
    ),
    Example(
        "spec.schedules[0].scaling",
        "scaling.minReplicas cannot exceed scaling.maxReplicas",
        _window(scaling={"minReplicas": 3, "maxReplicas": 3}),
        _window(scaling={"minReplicas": 4, "maxReplicas": 3}),
        "scaling.minReplicas cannot exceed scaling.maxReplicas (3)",
    ),
    Example(
        "spec.schedules[0].limits",
        f"limits.maxNumBatchedTokens must be at least limits.maxNumSeqs {_TOKENS}",
        _window(limits={"maxNumSeqs": 16, "maxNumBatchedTokens": 16}),
        _window(limits={"maxNumSeqs": 16, "maxNumBatchedTokens": 15}),
    ),
    *(
        Example(
            "spec",
            f"schedules[].limits.{field} cannot exceed engine.capacity.{field}",
            _window(limits={field: most}),
            _window(limits={field: most + 1}),
            f"schedules[].limits.{field} cannot exceed engine.capacity.{field} ({most})",
        )
        for field, most in (("maxNumSeqs", 32), ("maxNumBatchedTokens", 512), ("maxQueuedRequests", 1024))
    ),
    Example(
        "spec",
        "schedules[].replicas needs spec.scaling.mode Off or Advisory, and spec.replicas to return to after the window",
        {**_window(replicas=3), "spec.replicas": 1},
        _window(replicas=3),
    ),
)
