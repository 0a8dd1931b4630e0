"""The CustomResourceDefinition of `LLMDeployment`, generated from the models: `python -m headway_operator.api.crd`.

`make crd` writes it to deploy/crd/llmdeployments.yaml; a test fails when the file and the models disagree.
"""

import sys
from typing import Any

import yaml

from headway_operator.api.schema import Schema, object_schema, wire_rules
from headway_operator.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION, LLMDeployment

HEADER = "# Generated from operator/headway_operator/api by `make crd`. Do not edit.\n"
NAME = f"{PLURAL}.{GROUP}"


def crd() -> Schema:
    """The whole manifest."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["llmdep"],
                "categories": ["inference"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": _scale()},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    schema = object_schema(LLMDeployment)
    # The API server knows apiVersion, kind and metadata; a CRD may only say that they are there.
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": schema["properties"]["spec"],
        "status": {key: value for key, value in schema["properties"]["status"].items() if key != "default"},
    }
    return {
        "type": "object",
        "description": LLMDeployment.__doc__,
        "required": ["spec"],
        "properties": schema["properties"],
        "x-kubernetes-validations": wire_rules(LLMDeployment.rules),
    }


def _scale() -> dict[str, str]:
    return {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",  # HPA metrics of type Pods need it
    }


def _column(name: str, kind: str, path: str, priority: int = 0) -> dict[str, str | int]:
    column: dict[str, str | int] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def _columns() -> list[dict[str, str | int]]:
    """Columns of `kubectl get`; a priority above 0 shows with `-o wide`."""
    return [
        _column("Model", "string", ".status.model"),
        _column("Class", "string", ".spec.slo.workloadClass"),
        _column("Ready", "integer", ".status.readyReplicas"),
        _column("Desired", "integer", ".status.scaling.desiredReplicas"),
        _column("TTFT-p95", "string", ".status.slo.ttftObserved"),
        _column("SLO", "string", _condition("SLOMet", "status")),
        _column("Seqs", "integer", ".status.tuning.effective.maxNumSeqs"),
        _column("Status", "string", _condition("Ready", "reason")),
        _column("Age", "date", ".metadata.creationTimestamp"),
        _column("ITL-ms", "integer", ".status.slo.interTokenLatencyObservedMilliseconds", 1),
        _column("Tokens/s", "integer", ".status.slo.tokensPerSecond", 1),
        _column("Queue", "integer", ".status.slo.queueDepth", 1),
        _column("Batched", "integer", ".status.tuning.effective.maxNumBatchedTokens", 1),
        _column("Scaling", "string", ".spec.scaling.mode", 1),
        _column("Tuning", "string", ".spec.tuning.mode", 1),
        _column("Healthy", "string", _condition("Healthy", "reason"), 1),
        _column("Endpoint", "string", ".status.endpoint", 1),
        _column("Message", "string", _condition("Ready", "message"), 1),
    ]


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice instead of pointing to it, so that the file reads without jumping."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (yaml's signature)
        return True


def render() -> str:
    """The manifest as YAML, byte for byte the same for the same models."""
    body: str = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=120)
    return HEADER + body


if __name__ == "__main__":
    sys.stdout.write(render())
