"""What the operator needs of Kubernetes: verbs on plain dicts, and four ways to fail.

`KubeApi` is the one choke point for reads and writes: faults, metrics and the test double attach here. Its real
implementation is `kube_client.py`. Every failure is a `KubeError` whose `failure` says what the caller may do about it:

- CONFLICT: somebody else wrote, or a uid precondition failed: read again, then decide again.
- NOT_FOUND: the object is gone.
- RETRYABLE: overload, outage, time-out (the write may have happened): try again later.
- PERMANENT: the same request will fail again: report it, retry rarely.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from headway_operator.core.plan import Json, Manifest

T = TypeVar("T")

FIELD_MANAGER = "headway-operator"
GROUP = "serving.headway.dev"
VERSION = "v1alpha1"
FLEET_KIND = "LLMDeployment"


class Failure(StrEnum):
    """What a failed request means to its caller."""

    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    RETRYABLE = "retryable"
    PERMANENT = "permanent"


class KubeError(Exception):
    """A request to the API server that did not succeed.

    Attributes:
        failure: what the caller may do.
        status: the HTTP status, 0 when there was no answer.
        retry_after_s: how long the server asked us to wait, 0 when it did not say.
        said: the server's own sentence in the message, without our request; all of it where there is none.
    """

    def __init__(
        self, failure: Failure, message: str, status: int = 0, retry_after_s: float = 0.0, said: str = ""
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.said = said or message


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a kind lives in the API."""

    api_version: str
    plural: str

    @property
    def prefix(self) -> str:
        """The URL path up to the namespace."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"


RESOURCES = {
    FLEET_KIND: Resource(f"{GROUP}/{VERSION}", "llmdeployments"),
    "Pod": Resource("v1", "pods"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
    "Event": Resource("events.k8s.io/v1", "events"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
}


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        """The object's URL path."""
        return f"{collection_path(self.kind, self.namespace)}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class FleetKey:
    """Names one LLMDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ref(self) -> Ref:
        """The LLMDeployment as an object."""
        return Ref(FLEET_KIND, self.namespace, self.name)


class KubeApi(Protocol):
    """Reads and writes of namespaced objects. Every method raises `KubeError` when it fails."""

    async def get(self, ref: Ref) -> Manifest:
        """Read one object, never from a stale cache."""

    async def list(self, kind: str, namespace: str, selector: str = "") -> tuple[Manifest, ...]:
        """Read all objects of a kind; "" is every namespace. Items carry no kind and apiVersion of their own."""

    async def list_as(self, form: type[T], kind: str, namespace: str, selector: str = "") -> tuple[T, ...]:
        """As `list`, each object decoded into a type of msgspec's, which may name less than the object has."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create; CONFLICT when the name is taken."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace the whole object; CONFLICT when `metadata.resourceVersion` is no longer the current one."""

    async def apply(self, manifest: Manifest, subresource: str = "") -> Manifest:
        """Server-side apply under our field manager, taking over fields that others own."""

    async def patch(self, ref: Ref, patch: Manifest) -> Manifest:
        """Merge patch. A `metadata.uid` or `metadata.resourceVersion` in it is a precondition: CONFLICT."""

    async def delete(self, ref: Ref, uid: str, grace_s: int | None = None) -> None:
        """Delete exactly the object with this uid (CONFLICT when another has taken the name)."""


def collection_path(kind: str, namespace: str) -> str:
    """The URL path of all objects of a kind; "" is every namespace."""
    resource = RESOURCES[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{resource.prefix}{scope}/{resource.plural}"


def ref_of(manifest: Manifest) -> Ref:
    """The reference of a manifest that carries its kind.

    Raises:
        KubeError: the manifest lacks kind, name or namespace, or we do not handle its kind.
    """
    kind = text_at(manifest, "kind")
    namespace, name = text_at(manifest, "metadata", "namespace"), text_at(manifest, "metadata", "name")
    if kind not in RESOURCES or not namespace or not name:
        raise KubeError(Failure.PERMANENT, f"not an object we can address: {kind!r} {namespace!r}/{name!r}")
    return Ref(kind, namespace, name)


def at(manifest: Manifest, *path: str) -> Json:
    """The value at a path of keys, None when a step is missing."""
    value: Json = dict(manifest)
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text_at(manifest: Manifest, *path: str) -> str:
    """The string at a path, "" when it is missing or not a string."""
    value = at(manifest, *path)
    return value if isinstance(value, str) else ""


def dict_at(manifest: Manifest, *path: str) -> dict[str, Json]:
    """The object at a path, {} when it is missing or not an object."""
    value = at(manifest, *path)
    return value if isinstance(value, dict) else {}


def list_at(manifest: Manifest, *path: str) -> list[Json]:
    """The array at a path, [] when it is missing or not an array."""
    value = at(manifest, *path)
    return value if isinstance(value, list) else []
