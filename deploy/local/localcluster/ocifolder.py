"""The folder the cluster's registry serves: `blobs/sha256/DIGEST` and `manifests/REPO/TAG` (a digest as text).

Every file is written beside its place and renamed into it, so that a reader never sees half a blob.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MEDIA = "application/vnd.oci.image."
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What goes into a one-layer image: an uncompressed tar and how to start it."""

    repo: str
    tag: str
    layer: Path
    entrypoint: tuple[str, ...] = ()
    user: str = ""


def architecture() -> str:
    """This machine's architecture as Go and OCI spell it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def publish(folder: Path, image: Image) -> str:
    """Adds the image and points its tag at it; returns the manifest's digest."""
    layer = _store_file(folder, image.layer)
    config = {
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": list(image.entrypoint) or None, "Env": [_PATH], "User": image.user},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}manifest.v1+json",
        "config": {
            "mediaType": f"{_MEDIA}config.v1+json",
            "digest": _store(folder, config_bytes),
            "size": len(config_bytes),
        },
        "layers": [
            {"mediaType": f"{_MEDIA}layer.v1.tar", "digest": layer, "size": image.layer.stat().st_size},
        ],
    }
    digest = _store(folder, json.dumps(manifest, sort_keys=True).encode())
    _write(folder / "manifests" / image.repo / image.tag, digest.encode())
    return digest


def has(folder: Path, repo: str, tag: str) -> bool:
    """Whether the tag points at a manifest that is there."""
    pointer = folder / "manifests" / repo / tag
    return pointer.is_file() and blob(folder, pointer.read_text().strip()).is_file()


def blob(folder: Path, digest: str) -> Path:
    """Where the blob of a `sha256:...` digest lies."""
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _store(folder: Path, content: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    _write(blob(folder, digest), content)
    return digest


def _store_file(folder: Path, source: Path) -> str:
    with source.open("rb") as f:
        digest = "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()
    target = blob(folder, digest)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        with source.open("rb") as f, temporary.open("wb") as out:
            while chunk := f.read(1 << 20):
                out.write(chunk)
        temporary.rename(target)
    return digest


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "wb") as f:
        f.write(content)
    Path(temporary).chmod(0o644)
    Path(temporary).rename(path)
