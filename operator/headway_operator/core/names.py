"""Every name, label and annotation the operator gives to an object: one place, no randomness.

A pod is `<fleet>-<revision>-<ordinal>`. The ordinal is the lowest that no living pod of that revision uses, so a pass
that is repeated after a crash asks for the same name again and the API server refuses the duplicate.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from headway_operator.core.plan import Json

GROUP = "serving.headway.dev"
API_VERSION = f"{GROUP}/v1alpha1"
KIND = "LLMDeployment"
FINALIZER = f"{GROUP}/drain"

FEW = 10  # names in one message

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_FLEET = f"{GROUP}/fleet"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_SERVING = f"{GROUP}/serving"

ANNOTATION_DRAIN_STARTED = f"{GROUP}/drain-started"
ANNOTATION_DRAIN_REASON = f"{GROUP}/drain-reason"

ENGINE_NAME = "headway-engine"
OPERATOR_NAME = "headway-operator"

PORT_GRPC = 50051
PORT_CONTROL = 50052
PORT_HTTP = 8080


def fleet_labels(fleet: str) -> dict[str, Json]:
    """The labels of every object of a fleet."""
    return {
        LABEL_INSTANCE: fleet,
        LABEL_MANAGED_BY: OPERATOR_NAME,
        LABEL_NAME: ENGINE_NAME,
        LABEL_FLEET: fleet,
    }


def pod_labels(fleet: str, revision: str) -> dict[str, Json]:
    """The labels of a pod that takes part in serving."""
    return {**fleet_labels(fleet), LABEL_REVISION: revision, LABEL_SERVING: "true"}


def in_endpoints(labels: Mapping[str, str]) -> bool:
    """Does the fleet's Service select a pod with these labels?"""
    return labels.get(LABEL_SERVING) == "true"


def selector(fleet: str) -> str:
    """The label selector of the scale subresource: every pod of the fleet."""
    return f"{LABEL_FLEET}={fleet}"


def service_name(fleet: str) -> str:
    """The ClusterIP Service that clients use."""
    return fleet


def engines_service_name(fleet: str) -> str:
    """The headless Service that gives each engine an address, also while it drains."""
    return f"{fleet}-engines"


def pod_name(fleet: str, revision: str, ordinal: int) -> str:
    """The name of one engine pod."""
    return f"{fleet}-{revision}-{ordinal}"


def ordinal_of(name: str) -> int:
    """The ordinal at the end of a pod name; -1 for a name we did not make."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() else -1


def free_names(fleet: str, revision: str, taken: Iterable[str], count: int) -> tuple[str, ...]:
    """The `count` lowest pod names that are not taken."""
    used = set(taken)
    names: list[str] = []
    ordinal = 0
    while len(names) < count:
        name = pod_name(fleet, revision, ordinal)
        if name not in used:
            names.append(name)
        ordinal += 1
    return tuple(names)


def few(names: Iterable[str]) -> str:
    """Names for a message: all, or the first `FEW` and how many more. A condition's message has an upper length."""
    found = list(names)
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    return ", ".join(found[:FEW]) + more


def engine_word(value: str) -> str:
    """An enum's value as engines write it: `LowTail` is `low-tail` there."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", value).lower()


def revision_hash(content: Mapping[str, Json]) -> str:
    """Six hex digits over everything that needs a restart when it changes."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]
