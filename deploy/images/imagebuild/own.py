"""The built-in builder from end to end: Dockerfile in, image in the registry folder out."""

from __future__ import annotations

from pathlib import Path

from localcluster.progress import Progress
from localcluster.settings import Paths

from . import base, chroot, dockerfile, oci
from .context import Context
from .interpreter import Builder, Report
from .oci import Published
from .recipe import Recipe
from .store import Store


def build(recipe: Recipe, root: Path, store: Store, paths: Paths, progress: Progress) -> Published:
    """Builds and publishes one image."""
    chroot.require()
    text = (root / recipe.dockerfile).read_text()

    def start(label: str) -> None:
        short = " ".join(label.split())
        progress.start(f"{recipe.name} {short[:97] + '...' if len(short) > 100 else short}")

    builder = Builder(
        file=dockerfile.parse(text),
        context=Context.at(root),
        store=store,
        load_base=lambda name: base.load(name, store, paths),
        arguments={"BASE_IMAGE": base.DEFAULT, **recipe.arguments},
        report=Report(start, progress.tick, progress.done),
    )
    state = builder.build()
    blobs = tuple(blob for layer in state.layers if (blob := store.blob(layer)).digest)
    return oci.publish(store.registry, recipe.repository, state.config, blobs)
