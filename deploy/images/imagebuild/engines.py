"""Building with docker or podman, and bringing the result into the registry folder.

Both can save an image as an OCI layout, whose blobs are what the folder holds.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from . import oci
from .errors import BuildError
from .oci import Published
from .recipe import Recipe

ENGINES = ("docker", "podman")
_SAVE = {"docker": ("save",), "podman": ("save", "--format", "oci-archive")}
_LOCAL_TAG = "build"


def works(engine: str) -> bool:
    """Whether the command is there and answers: a docker client without its daemon does not count."""
    if shutil.which(engine) is None:
        return False
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build(engine: str, recipe: Recipe, root: Path, registry: Path, *, no_cache: bool) -> Published:
    """Builds one image with the engine and copies it into the registry folder."""
    name = f"{recipe.repository}:{_LOCAL_TAG}"
    argv = [engine, "build", "--file", recipe.dockerfile, "--tag", name, *(["--no-cache"] if no_cache else [])]
    for key, value in recipe.arguments.items():
        argv += ["--build-arg", f"{key}={value}"]
    # What the engine says is the progress; our standard output carries the result only.
    done = subprocess.run([*argv, "."], cwd=root, stdout=2, check=False)
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(argv)} .` failed with exit code {done.returncode}; its messages are above")
    registry.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=registry) as folder:
        archive = Path(folder, "image.tar")
        saved = subprocess.run([engine, *_SAVE[engine], "--output", str(archive), name], stdout=2, check=False)
        if saved.returncode != 0:
            raise BuildError(f"`{engine} save {name}` failed with exit code {saved.returncode}")
        return import_archive(archive, registry, recipe.repository)


def import_archive(archive: Path, registry: Path, repository: str) -> Published:
    """Copies the image of an OCI layout tar into the registry folder and tags it by its content."""
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(dir=registry) as folder:
        if "index.json" not in tar.getnames():
            raise BuildError(
                "the engine saved no OCI layout (docker before 25 does not): update it, or use --engine own"
            )
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has no filters
        tar.extractall(folder)  # noqa: S202 - filtered
        unpacked = Path(folder)
        digest = _image_manifest(unpacked, json.loads((unpacked / "index.json").read_text()))
        manifest = json.loads(oci.blob_path(unpacked, digest).read_bytes())
        for blob in (manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"]), digest):
            if not oci.blob_path(registry, blob).is_file():
                oci.put_file(registry, oci.blob_path(unpacked, blob), blob)
    return oci.tag_manifest(registry, repository, digest)


def _image_manifest(folder: Path, index: dict[str, list[dict[str, object]]]) -> str:
    """Follows an index, also one inside another, to the manifest for this machine."""
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    for entry in index["manifests"]:
        described = entry.get("platform")
        if isinstance(described, dict) and described.get("architecture") not in (wanted, None):
            continue  # another platform, or the build's attestation
        digest = str(entry["digest"])
        content = json.loads(oci.blob_path(folder, digest).read_bytes())
        return _image_manifest(folder, content) if "manifests" in content else digest
    raise BuildError(f"the saved image has no manifest for {wanted}")
