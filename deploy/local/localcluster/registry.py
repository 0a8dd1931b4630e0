"""A read-only image registry (OCI distribution, pull only) over a folder written by the image build.

The folder is `blobs/sha256/DIGEST` and `manifests/REPO/TAG`, a text file with the manifest's digest.
It serves on the cluster's bridge; containerd's hosts.toml leads the registry's name to it.
"""

from __future__ import annotations

import http.client
import re
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .ocifolder import blob
from .processes import Daemon, require_alive, start
from .settings import REGISTRY_PORT, Addresses, Paths
from .shell import wait_until

_ROUTE = re.compile(r"/v2/((?:[a-z0-9._-]+/)*[a-z0-9._-]+)/(manifests|blobs)/([\w.:-]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file to send and what to say about it."""

    path: Path
    digest: str
    media_type: str


def find(folder: Path, url: str) -> Found | None:
    """What a URL asks for; None when it is not there. Names with `..` lead nowhere."""
    match = _ROUTE.fullmatch(url.split("?", 1)[0])
    if match is None or ".." in match[1].split("/"):
        return None
    repo, kind, wanted = match.groups()
    if not _DIGEST.fullmatch(wanted):
        pointer = folder / "manifests" / repo / wanted
        if kind != "manifests" or wanted.startswith(".") or not pointer.is_file():
            return None
        wanted = pointer.read_text().strip()
    path = blob(folder, wanted)
    if not _DIGEST.fullmatch(wanted) or not path.is_file():
        return None
    media_type = "application/vnd.oci.image.manifest.v1+json" if kind == "manifests" else "application/octet-stream"
    return Found(path, wanted, media_type)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that a Range header asks for; None for the whole file."""
    match = _RANGE.fullmatch(header or "")
    if match is None or int(match[1]) >= size:
        return None
    return int(match[1]), min(size, int(match[2]) + 1) if match[2] else size


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        """Sends a manifest or a blob."""
        if self.path == "/v2/":
            self._send(200, b"{}")
            return
        found = find(self.folder, self.path)
        if found is None:
            self._send(404, b'{"errors":[{"code":"NOT_FOUND","message":"no such image or blob"}]}')
            return
        size = found.path.stat().st_size
        part = byte_range(self.headers.get("Range"), size)
        first, end = part or (0, size)
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        self.send_header("Docker-Content-Digest", found.digest)
        self.send_header("Content-Type", found.media_type)
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command == "GET":
            with found.path.open("rb") as f:
                f.seek(first)
                while first < end and (chunk := f.read(min(_CHUNK, end - first))):
                    self.wfile.write(chunk)
                    first += len(chunk)

    def do_HEAD(self) -> None:
        """Says what GET would send."""
        self.do_GET()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def serve(folder: Path, address: str, port: int) -> ThreadingHTTPServer:
    """A server bound to the address, ready for `serve_forever`."""
    handler = type("FolderHandler", (Handler,), {"folder": folder})
    server = ThreadingHTTPServer((address, port), handler)
    server.daemon_threads = True
    return server


def http_ok(address: str, port: int, path: str) -> bool:
    """Whether a GET there is answered with 200."""
    connection = http.client.HTTPConnection(address, port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start_registry(paths: Paths, addresses: Addresses) -> None:
    """Starts the registry over the user's image folder and waits until it answers."""
    paths.registry.mkdir(parents=True, exist_ok=True)
    address = str(addresses.node_ip(1))
    script = Path(__file__).resolve().parent.parent / "cluster.py"
    argv = [sys.executable, script, "serve-registry", paths.registry, address, REGISTRY_PORT]
    start(paths, Daemon("registry", [str(word) for word in argv]))

    def settled() -> bool:
        require_alive(paths, "registry")
        return http_ok(address, REGISTRY_PORT, "/v2/")

    wait_until(settled, 10.0)
