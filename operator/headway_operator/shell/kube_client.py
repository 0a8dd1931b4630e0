"""`KubeApi` over the asyncio client of the official `kubernetes` package: dicts in, dicts out.

Only the client's transport is used (authentication, TLS, token refresh, connection pool). Its generated models are
bypassed: they cost memory, know nothing of our CRD and validate arguments with exceptions of their own. `_request` is the
one place where an answer, or the lack of one, becomes a result or a `KubeError`.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from pydantic import ValidationError

from headway_operator.core.plan import Json, Manifest
from headway_operator.shell.kube import (
    FIELD_MANAGER,
    RESOURCES,
    Failure,
    KubeError,
    Ref,
    collection_path,
    ref_of,
    text_at,
)

T = TypeVar("T")

# (verb, kind, HTTP status or 0, seconds)
RequestObserver = Callable[[str, str, int, float], None]

PAGE_LIMIT = 500  # objects per page of a LIST: bounds the memory of one answer on both sides
_CONTENT_TYPES = {
    # With a parameter the library leaves the text as it is; without one it would write JSON itself.
    "apply": "application/apply-patch+yaml; charset=utf-8",
    "patch": "application/merge-patch+json",
}
_SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_METHODS = {"get": "GET", "list": "GET", "create": "POST", "replace": "PUT", "apply": "PATCH", "patch": "PATCH"}


class _PageMetadata(msgspec.Struct):
    more: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T]):
    metadata: _PageMetadata
    items: list[T] | None  # Go writes a list without objects as null


class KubeClient:
    """The real API server.

    Args:
        api_client: an authenticated `kubernetes.aio` ApiClient; closed by `close`.
        timeout_s: deadline of one request.
        observe: told about every request, for metrics.
    """

    def __init__(self, api_client: "k8s.ApiClient", timeout_s: float, observe: RequestObserver) -> None:
        self._client = api_client
        self._timeout_s = timeout_s
        self._observe = observe

    @classmethod
    async def connect(cls, timeout_s: float, observe: RequestObserver, kubeconfig: str = "") -> "KubeClient":
        """Configure from the pod's service account, else from a kubeconfig ("": the user's default one).

        Raises:
            KubeError: there is neither, or the kubeconfig cannot be used.
        """
        configuration = k8s.Configuration()
        try:
            k8s_config.load_incluster_config(client_configuration=configuration)
        except k8s_config.ConfigException:
            try:
                await k8s_config.load_kube_config(kubeconfig or None, client_configuration=configuration)
            except (k8s_config.ConfigException, OSError) as error:
                raise KubeError(Failure.PERMANENT, f"no service account and no usable kubeconfig: {error}") from error
        return cls(k8s.ApiClient(configuration), timeout_s, observe)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def get(self, ref: Ref) -> Manifest:
        """See `KubeApi`."""
        return await self._request("get", ref.kind, ref.path)

    async def list(self, kind: str, namespace: str, selector: str = "") -> tuple[Manifest, ...]:
        """See `KubeApi`."""
        return await self.list_as(dict[str, Any], kind, namespace, selector)

    async def list_as(self, form: type[T], kind: str, namespace: str, selector: str = "") -> tuple[T, ...]:
        """See `KubeApi`. A continue token that expires between two pages starts the LIST afresh, once."""
        try:
            return await self._pages(form, kind, namespace, selector)
        except KubeError as error:
            if error.status != HTTPStatus.GONE:
                raise
            return await self._pages(form, kind, namespace, selector)

    async def _pages(self, form: type[T], kind: str, namespace: str, selector: str) -> tuple[T, ...]:
        path = collection_path(kind, namespace)
        query = {"limit": str(PAGE_LIMIT)} | ({"labelSelector": selector} if selector else {})
        found: list[T] = []
        while True:
            answer = await self._answer("list", kind, path, query=query)
            with _understanding(f"list {path}"):
                page = msgspec.json.decode(answer, type=_Page[form])  # type: ignore[valid-type]
            found.extend(page.items or ())
            if not page.metadata.more:
                return tuple(found)
            query = query | {"continue": page.metadata.more}

    async def create(self, manifest: Manifest) -> Manifest:
        """See `KubeApi`."""
        ref = ref_of(manifest)
        return await self._request("create", ref.kind, collection_path(ref.kind, ref.namespace), body=manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        """See `KubeApi`."""
        ref = ref_of(manifest)
        return await self._request("replace", ref.kind, ref.path, body=manifest)

    async def apply(self, manifest: Manifest, subresource: str = "") -> Manifest:
        """See `KubeApi`."""
        ref = ref_of(manifest)
        path = f"{ref.path}/{subresource}" if subresource else ref.path
        body = {"apiVersion": RESOURCES[ref.kind].api_version, **manifest}
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("apply", ref.kind, path, query=query, body=body)

    async def patch(self, ref: Ref, patch: Manifest) -> Manifest:
        """See `KubeApi`."""
        return await self._request("patch", ref.kind, ref.path, query={"fieldManager": FIELD_MANAGER}, body=patch)

    async def delete(self, ref: Ref, uid: str, grace_s: int | None = None) -> None:
        """See `KubeApi`."""
        body: dict[str, Json] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        await self._request("delete", ref.kind, ref.path, body=body)

    async def _request(
        self, verb: str, kind: str, path: str, *, query: dict[str, str] | None = None, body: Manifest | None = None
    ) -> Manifest:
        answer = await self._answer(verb, kind, path, query=query, body=body)
        with _understanding(f"{verb} {path}"):
            return msgspec.json.decode(answer, type=dict[str, Any])

    async def _answer(
        self, verb: str, kind: str, path: str, *, query: dict[str, str] | None = None, body: Manifest | None = None
    ) -> str:
        started = time.monotonic()
        status = 0
        try:
            status, text, retry_after = await self._send(verb, f"{path}?{urlencode(query)}" if query else path, body)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise KubeError(Failure.RETRYABLE, f"{verb} {path}: no answer: {reason}") from error
        except (k8s.ApiException, ValidationError, ValueError) as error:
            raise KubeError(Failure.PERMANENT, f"{verb} {path}: the client refused the request: {error}") from error
        finally:
            self._observe(verb, kind, status, time.monotonic() - started)
        if status >= HTTPStatus.BAD_REQUEST:
            raise classify(status, text, f"{verb} {path}", retry_after)
        return text

    async def _send(self, verb: str, path: str, body: Manifest | None) -> tuple[int, str, str]:
        headers = {"Accept": "application/json", "Content-Type": _CONTENT_TYPES.get(verb, "application/json")}
        content: object = dict(body) if body is not None else None
        method, url, headers, data, _ = await self._client.param_serialize(
            _METHODS.get(verb, verb.upper()),
            path,
            header_params=headers,
            body=_as_yaml(content) if verb == "apply" else content,
            auth_settings=["BearerToken"],
        )
        async with asyncio.timeout(self._timeout_s):
            response = await self._client.call_api(method, url, headers, data)
            raw = await response.read()
        return response.status, raw.decode(), response.getheader("Retry-After") or ""


def _as_yaml(content: object) -> str:
    """JSON, but what JSON writes as two escapes (an emoji, say) as itself: YAML, as which an apply is read, knows no pairs."""
    return _SURROGATES.sub(lambda pair: str(json.loads(f'"{pair[0]}"')), json.dumps(content))


@contextlib.contextmanager
def _understanding(what: str) -> Iterator[None]:
    """A success that is no JSON object comes from something between us and the API server, and says nothing."""
    try:
        yield
    except msgspec.MsgspecError as error:
        raise KubeError(Failure.RETRYABLE, f"{what}: the answer cannot be read: {error}") from error


def classify(status: int, text: str, what: str, retry_after: str = "") -> KubeError:
    """Turn an HTTP error into a `KubeError`.

    An apply with a field that the CRD lacks is answered 500, yet will fail for ever: the operator is newer than the CRD.
    """
    said = text_at(_as_object(text), "message") or text[:300]
    message = f"{what}: {status} {said}"
    wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
    if status == HTTPStatus.NOT_FOUND:
        return KubeError(Failure.NOT_FOUND, message, status)
    # A merge patch that names another uid than the object's is refused as invalid, not as the conflict it means.
    if status == HTTPStatus.CONFLICT or ("metadata.uid: Invalid value" in text and "field is immutable" in text):
        return KubeError(Failure.CONFLICT, message, status)
    if "field not declared in schema" in text:
        return KubeError(Failure.PERMANENT, f"{message} (upgrade the CRD before the operator)", status)
    if (
        status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        return KubeError(Failure.RETRYABLE, message, status, wait_s)
    return KubeError(Failure.PERMANENT, message, status, said=said)


def _as_object(text: str) -> Manifest:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}
