"""The image a Dockerfile starts from, when there is no container engine to fetch one.

Any image in the registry folder will do. The default is the local cluster's Debian image with Python, made by
mmdebstrap once and shared with the cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localcluster import images as cluster_images
from localcluster.settings import Paths

from . import oci
from .errors import BuildError
from .layertar import LayerBlob
from .oci import ImageConfig
from .store import Layer, Store

DEFAULT = cluster_images.reference(cluster_images.BASE)


@dataclass(frozen=True, slots=True)
class Base:
    """Layers, lowest first, and the configuration that children inherit."""

    layers: tuple[Layer, ...]
    config: ImageConfig


def load(name: str, store: Store, paths: Paths) -> Base:
    """Finds or makes the image and unpacks its layers into the store."""
    if name == DEFAULT:
        _require_mmdebstrap(paths)
        cluster_images.ensure_base(paths)
    digest = oci.manifest_digest(store.registry, name)
    if digest is None:
        raise BuildError(
            f"the base image {name} is not in {store.registry}: without a container engine only images there can be "
            f"built upon (default: {DEFAULT})"
        )
    manifest = json.loads(oci.blob_path(store.registry, digest).read_bytes())
    config = json.loads(oci.blob_path(store.registry, manifest["config"]["digest"]).read_bytes())["config"]
    layers = tuple(_unpack(store, LayerBlob(layer["digest"], layer["size"])) for layer in manifest["layers"])
    env = dict(pair.partition("=")[::2] for pair in config.get("Env") or [])
    return Base(
        layers, ImageConfig(env=env, labels=config.get("Labels") or {}, workdir=config.get("WorkingDir") or "/")
    )


def _unpack(store: Store, blob: LayerBlob) -> Layer:
    key = blob.digest.removeprefix("sha256:")[:20]
    folder = store.root / "layers" / key
    if (folder / "blob.json").is_file():
        os.utime(folder)
        return Layer(key, folder / "diff")

    def fill(work: Path) -> None:
        archive = oci.blob_path(store.registry, blob.digest)
        argv = ["tar", "--numeric-owner", "-xpf", str(archive), "-C", str(work / "diff")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"cannot unpack the base layer {archive}: {done.stderr.strip()[-500:]}")
        if any((work / "diff").rglob(".wh.*")):
            raise BuildError(f"the base layer {blob.digest} deletes files of the layer below: flatten that image first")

    layer = store.make(key, fill)
    store.note_blob(key, blob)
    return layer


def _require_mmdebstrap(paths: Paths) -> None:
    """The one Debian package this needs; root gets it installed, others get the command."""
    made = paths.registry / "manifests" / cluster_images.BASE[0] / cluster_images.BASE[1]
    if made.is_file() or shutil.which("mmdebstrap"):
        return
    command = "apt-get install -y --no-install-recommends mmdebstrap"
    if not shutil.which("apt-get"):
        raise BuildError("mmdebstrap is missing and so is apt-get: install it by hand, or use --engine docker|podman")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in ("apt-get -q update", command):
        done = subprocess.run(words.split(), env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"`{words}` failed: {done.stderr.strip()[-500:]}")
