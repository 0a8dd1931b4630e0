"""An API server in memory, as far as the operator's shell can tell: the `KubeApi` protocol with the real one's rules.

Kept rules: one growing resourceVersion; an identical apply changes nothing; fields once applied and then left out vanish;
the status is written only through its subresource; generation follows the spec; uid and resourceVersion preconditions
answer CONFLICT; finalizers delay a deletion; owners take their children along. `faults` decides what each request meets.
"""

import copy
import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from headway_operator.core.plan import Manifest
from headway_operator.shell.kube import Failure, KubeError, Ref, ref_of, text_at

T = TypeVar("T")

WRITES = frozenset({"create", "replace", "apply", "patch", "delete"})


class CrashError(BaseException):
    """The process died here; nothing may catch it on the way."""


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    kind: str
    name: str
    number: int  # of its verb class: writes and reads are counted apart

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES


Fault = Callable[[Request], None]  # raises to make the request fail


def no_fault(request: Request) -> None:
    """Let it pass."""


class FakeKube:
    def __init__(self) -> None:
        self.objects: dict[Ref, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.before: Fault = no_fault
        self.after: Fault = no_fault
        self._applied: dict[tuple[str, str], dict[str, Any]] = {}
        self._version = 0

    @property
    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.is_write]

    def put(self, manifest: Manifest) -> dict[str, Any]:
        """Place an object as a user would."""
        ref = ref_of(manifest)
        stored: dict[str, Any] = copy.deepcopy(dict(manifest))
        metadata = stored["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        metadata["generation"] = 1
        self._store(ref, stored)
        return stored

    def edit(self, ref: Ref, change: Callable[[dict[str, Any]], None]) -> None:
        """Change an object behind the operator's back."""
        stored = self.objects[ref]
        change(stored)
        self._store(ref, stored)

    def remove(self, ref: Ref) -> None:
        """Delete as a user would."""
        stored = self.objects.get(ref)
        if stored is None:
            return
        if stored["metadata"].get("finalizers"):
            stored["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:01Z")
            self._store(ref, stored)
            return
        del self.objects[ref]
        uid = stored["metadata"]["uid"]
        self._applied = {key: value for key, value in self._applied.items() if key[0] != uid}
        for child in self._owned_by(uid):
            self.remove(child)

    def of_kind(self, kind: str) -> list[Ref]:
        return sorted((ref for ref in self.objects if ref.kind == kind), key=str)

    async def get(self, ref: Ref) -> Manifest:
        with self._request("get", ref.kind, ref.name):
            return copy.deepcopy(self._existing(ref))

    async def list(self, kind: str, namespace: str, selector: str = "") -> tuple[Manifest, ...]:
        return await self.list_as(dict[str, Any], kind, namespace, selector)

    async def list_as(self, form: type[T], kind: str, namespace: str, selector: str = "") -> tuple[T, ...]:
        wanted = dict(pair.split("=") for pair in selector.split(",")) if selector else {}
        with self._request("list", kind, ""):
            return tuple(
                msgspec.json.decode(json.dumps(self.objects[ref]), type=form)
                for ref in self.of_kind(kind)
                if (not namespace or ref.namespace == namespace)
                and wanted.items() <= self.objects[ref]["metadata"].get("labels", {}).items()
            )

    async def create(self, manifest: Manifest) -> Manifest:
        ref = ref_of(manifest)
        with self._request("create", ref.kind, ref.name):
            if ref in self.objects:
                raise KubeError(Failure.CONFLICT, f"{ref} exists", 409)
            return copy.deepcopy(self.put(manifest))

    async def replace(self, manifest: Manifest) -> Manifest:
        ref = ref_of(manifest)
        with self._request("replace", ref.kind, ref.name):
            current = self._existing(ref)
            self._check(ref, manifest)
            stored: dict[str, Any] = copy.deepcopy(dict(manifest))
            stored["metadata"] = {**current["metadata"], **stored["metadata"]}
            self._store(ref, stored)
            return copy.deepcopy(stored)

    async def apply(self, manifest: Manifest, subresource: str = "") -> Manifest:
        ref = ref_of(manifest)
        with self._request("apply", ref.kind, ref.name):
            if ref not in self.objects:
                if subresource:
                    raise KubeError(Failure.NOT_FOUND, f"{ref} not found", 404)
                self.put({key: value for key, value in manifest.items() if key != "status"})
            else:
                self._check(ref, manifest)
            self._merge_applied(ref, copy.deepcopy(dict(manifest)), subresource)
            return copy.deepcopy(self.objects[ref])

    async def patch(self, ref: Ref, patch: Manifest) -> Manifest:
        with self._request("patch", ref.kind, ref.name):
            stored = self._existing(ref)
            self._check(ref, {"metadata": {}, **patch})
            changed = _merge_patch(stored, copy.deepcopy(dict(patch)))
            if not changed["metadata"].get("finalizers") and changed["metadata"].get("deletionTimestamp"):
                self.objects[ref] = changed
                self.remove(ref)
            elif changed != stored:
                self._store(ref, changed)
            return copy.deepcopy(changed)

    async def delete(self, ref: Ref, uid: str, grace_s: int | None = None) -> None:
        with self._request("delete", ref.kind, ref.name):
            if self._existing(ref)["metadata"]["uid"] != uid:
                raise KubeError(Failure.CONFLICT, f"{ref} has another uid", 409)
            self.remove(ref)

    def _request(self, verb: str, kind: str, name: str) -> "_Faulty":
        is_write = verb in WRITES
        number = sum(request.is_write == is_write for request in self.requests)
        request = Request(verb, kind, name, number)
        self.requests.append(request)
        return _Faulty(self, request)

    def _existing(self, ref: Ref) -> dict[str, Any]:
        if ref not in self.objects:
            raise KubeError(Failure.NOT_FOUND, f"{ref} not found", 404)
        return self.objects[ref]

    def _check(self, ref: Ref, manifest: Manifest) -> None:
        current = self.objects[ref]["metadata"]
        for precondition in ("uid", "resourceVersion"):
            wanted = text_at(manifest, "metadata", precondition)
            if wanted and wanted != current[precondition]:
                raise KubeError(Failure.CONFLICT, f"{ref}: {precondition} is {current[precondition]}", 409)

    def _merge_applied(self, ref: Ref, manifest: dict[str, Any], subresource: str) -> None:
        stored = self.objects[ref]
        ours = {"status": manifest.get("status", {})} if subresource else _without(manifest, ("status",))
        key = (stored["metadata"]["uid"], subresource)
        merged = _merge_patch(_prune(stored, self._applied.get(key, {}), ours), ours)
        self._applied[key] = ours
        if merged != stored:
            if merged.get("spec") != stored.get("spec"):
                merged["metadata"]["generation"] = stored["metadata"]["generation"] + 1
            self._store(ref, merged)

    def _store(self, ref: Ref, manifest: dict[str, Any]) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        self.objects[ref] = manifest

    def _owned_by(self, uid: str) -> Iterable[Ref]:
        return [
            ref
            for ref, manifest in self.objects.items()
            if any(owner["uid"] == uid for owner in manifest["metadata"].get("ownerReferences", []))
        ]


class _Faulty:
    """Runs the faults before a request begins and after it has taken effect."""

    def __init__(self, kube: FakeKube, request: Request) -> None:
        self._kube = kube
        self._request = request

    def __enter__(self) -> None:
        self._kube.before(self._request)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._kube.after(self._request)


def _without(manifest: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in keys}


def _merge_patch(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge_patch(merged[key] if isinstance(merged.get(key), dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _prune(stored: dict[str, Any], before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Drop what we applied the last time and do not apply any more."""
    kept = {}
    for key, value in stored.items():
        if key in before and key not in now:
            continue
        nested = isinstance(value, dict) and isinstance(before.get(key), dict) and isinstance(now.get(key), dict)
        kept[key] = _prune(value, before[key], now[key]) if nested else value
    return kept
