"""A small client of the cluster's API server, with the administrator's certificate."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .errors import ClusterError
from .settings import API_PORT, Addresses, Paths

TIMEOUT_S = 10.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
Json = dict[str, Any]


class ApiError(ClusterError):
    """The API server's refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One connection per call: calls are few, and the server restarts under us."""

    def __init__(self, paths: Paths, addresses: Addresses) -> None:
        self._address = str(addresses.node_ip(1))
        try:
            self._context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
            self._context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        except OSError as err:
            raise ClusterError(f"no cluster has been started here ({err}); `make cluster` starts one") from err

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Json:
        """Sends one request; raises ApiError for a refusal and OSError when the server is not there."""
        connection = http.client.HTTPSConnection(self._address, API_PORT, timeout=TIMEOUT_S, context=self._context)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content_type} if payload else {})
            response = connection.getresponse()
            text = response.read().decode()
        except http.client.HTTPException as err:
            raise OSError(f"{type(err).__name__}: {err}") from err
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiError(response.status, _message(text) or f"HTTP {response.status} for {path}")
        return dict(json.loads(text)) if text.startswith("{") else {}

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        try:
            self.call("GET", "/readyz")
        except (OSError, ApiError):
            return False
        return True

    def apply(self, path: str, obj: Mapping[str, Any], subresource: str = "") -> Json:
        """Server-side apply of one object (or a subresource, with its slash) at the path of its collection."""
        name = quote(str(obj["metadata"]["name"])) + subresource
        return self.call("PATCH", f"{path}/{name}?fieldManager=headway-local&force=true", obj, APPLY)

    def items(self, path: str) -> list[Json]:
        """The objects of a collection."""
        return list(self.call("GET", path).get("items", []))


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", ""))
    except ValueError:
        return text.strip()[:200]
