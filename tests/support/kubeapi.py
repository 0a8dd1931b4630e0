"""A Kubernetes client of a few lines, for tests that assert on status codes and messages of the API server itself."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class UnreachableError(Exception):
    """Nobody answered."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the API server answered; errors are answers, too.

    Attributes:
        status: the HTTP status.
        body: the JSON document, or the text of one that is not JSON.
        warnings: the sentences of `Warning` headers, such as unknown fields.
    """

    status: int
    body: Any
    warnings: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The message of a Status object."""
        return str(self.body["message"]) if isinstance(self.body, dict) and "message" in self.body else str(self.body)

    def ok(self) -> Any:
        """The body of a success; an AssertionError with the server's words otherwise."""
        if self.status >= 300:
            raise AssertionError(f"{self.status}: {self.message}")
        return self.body


@dataclass(frozen=True, slots=True)
class KubeApi:
    """One API server and one identity.

    Attributes:
        url: `https://host:port`.
        token: bearer token.
        authority: certificate that the server's is checked against.
    """

    url: str
    token: str
    authority: Path

    def get(self, path: str) -> Response:
        """GET."""
        return self.send("GET", path)

    def create(self, path: str, body: Any, *, dry_run: bool = False) -> Response:
        """POST to a collection."""
        return self.send("POST", f"{path}{'?dryRun=All' if dry_run else ''}", body)

    def apply(self, path: str, body: Any, manager: str, *, force: bool = False) -> Response:
        """Server-side apply."""
        query = f"?fieldManager={manager}&force={str(force).lower()}"
        return self.send("PATCH", path + query, body, APPLY)

    def merge(self, path: str, body: Any) -> Response:
        """A JSON merge patch."""
        return self.send("PATCH", path, body, MERGE)

    def delete(self, path: str) -> Response:
        """DELETE."""
        return self.send("DELETE", path)

    def send(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Response:
        """One request."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type, "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
                warnings = tuple(answer.headers.get_all("Warning") or ())
                return Response(answer.status, _decode(answer.read()), warnings)
        except urllib.error.HTTPError as err:
            with err:
                return Response(err.code, _decode(err.read()))
        except (urllib.error.URLError, ConnectionError) as err:
            raise UnreachableError(str(err)) from err


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
