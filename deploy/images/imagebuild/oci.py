"""The registry folder as OCI wants it: blobs, an image's configuration and manifest, a tag, and one tar of it all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from .layertar import LayerBlob

_MEDIA = "application/vnd.oci.image."
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a container of the image starts."""

    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """An image in the registry folder; `size` is the sum of its blobs in bytes."""

    name: str
    digest: str
    size: int


def blob_path(registry: Path, digest: str) -> Path:
    """Where the blob of a `sha256:...` digest lies."""
    return registry / "blobs" / "sha256" / digest.removeprefix("sha256:")


def put_bytes(registry: Path, content: bytes) -> str:
    """Stores a small blob and returns its digest."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if not blob_path(registry, digest).exists():
        _write(blob_path(registry, digest), content)
    return digest


def put_file(registry: Path, source: Path, digest: str) -> None:
    """Moves a finished blob into the folder; the rename is what makes it visible."""
    target = blob_path(registry, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError:  # another file system
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        temporary.rename(target)
        source.unlink()


def publish(registry: Path, repository: str, config: ImageConfig, layers: tuple[LayerBlob, ...]) -> Published:
    """Writes configuration, manifest and tag. The tag is the manifest's own hash: same content, same name."""
    config_bytes = json.dumps(_config_document(config, layers), sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}manifest.v1+json",
        "config": {
            "mediaType": f"{_MEDIA}config.v1+json",
            "digest": put_bytes(registry, config_bytes),
            "size": len(config_bytes),
        },
        "layers": [{"mediaType": f"{_MEDIA}layer.v1.tar", "digest": b.digest, "size": b.size} for b in layers],
    }
    manifest_bytes = json.dumps(manifest, sort_keys=True).encode()
    digest = put_bytes(registry, manifest_bytes)
    return tag_manifest(registry, repository, digest)


def tag_manifest(registry: Path, repository: str, digest: str) -> Published:
    """Points the content tag at a manifest that is in the folder."""
    content = blob_path(registry, digest).read_bytes()
    manifest = json.loads(content)
    host, _, path = repository.partition("/")
    tag = digest.removeprefix("sha256:")[:12]
    _write(registry / "manifests" / path / tag, digest.encode())
    size = len(content) + manifest["config"]["size"] + sum(layer["size"] for layer in manifest["layers"])
    return Published(f"{host}/{path}:{tag}", digest, size)


def manifest_digest(registry: Path, image: str) -> str | None:
    """The digest behind `host/repository:tag`, or None when the folder does not have that image."""
    path, _, tag = image.partition("/")[2].rpartition(":")
    pointer = registry / "manifests" / path / tag
    digest = pointer.read_text().strip() if path and pointer.is_file() else ""
    return digest if digest and blob_path(registry, digest).is_file() else None


def write_archive(registry: Path, images: list[Published], target: Path) -> None:
    """Writes an OCI layout as one tar, for `kind load image-archive`, `ctr images import` or a machine without network."""
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}index.v1+json",
        "manifests": [
            {
                "mediaType": f"{_MEDIA}manifest.v1+json",
                "digest": image.digest,
                "size": blob_path(registry, image.digest).stat().st_size,
                "annotations": {
                    "io.containerd.image.name": image.name,
                    "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
                },
            }
            for image in images
        ],
    }
    digests: dict[str, None] = {}
    for image in images:
        manifest = json.loads(blob_path(registry, image.digest).read_bytes())
        digests |= dict.fromkeys([image.digest, manifest["config"]["digest"]])
        digests |= dict.fromkeys(layer["digest"] for layer in manifest["layers"])
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", json.dumps(index).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for digest in digests:
            info = tarfile.TarInfo(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            info.size = blob_path(registry, digest).stat().st_size
            with blob_path(registry, digest).open("rb") as file:
                tar.addfile(info, file)


def _config_document(config: ImageConfig, layers: tuple[LayerBlob, ...]) -> dict[str, object]:
    return {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "Env": [f"{name}={value}" for name, value in config.env.items()],
            "Labels": config.labels or None,
            "ExposedPorts": {port if "/" in port else f"{port}/tcp": {} for port in config.ports} or None,
            "Entrypoint": list(config.entrypoint) or None,
            "Cmd": list(config.command) or None,
            "WorkingDir": config.workdir,
            "User": config.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in layers]},
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)
