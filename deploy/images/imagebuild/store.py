"""Built layers on disk, found by their cache key, and their tars in the registry folder.

    layers/KEY/diff        what the step changed, in overlayfs form: a lower layer of later steps
    layers/KEY/blob.json   digest and size of its tar, once an image needed it
    memo/KEY               small facts that take long to compute (the digest of a 1 GB tree)
    mounts/ID              cache mounts

A layer is made in `work/` and renamed into place: a build that is killed leaves nothing that a later one would trust.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import layertar, oci
from .layertar import LayerBlob

_UNUSED_AFTER_S = 7 * 24 * 3600


def key_of(*facts: object) -> str:
    """A cache key: equal facts, equal key."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer: its key and its files."""

    key: str
    diff: Path


@dataclass(slots=True)
class Store:
    """The cache of one user. `fresh` ignores what earlier builds left."""

    root: Path
    registry: Path
    fresh: bool = False
    _made: set[str] = field(default_factory=set, init=False)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time; the second waits."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(self.root / "work", ignore_errors=True)  # of a build that was killed
            yield

    def find(self, key: str) -> Layer | None:
        """The layer of an earlier build, if it is there."""
        folder = self._folder(key)
        if not (folder / "diff").is_dir() or (self.fresh and key not in self._made):
            return None
        os.utime(folder)
        return Layer(key, folder / "diff")

    def make(self, key: str, fill: Callable[[Path], None]) -> Layer:
        """Makes a layer: `fill` gets a work folder and leaves the result in its `diff`."""
        work = self.root / "work" / key
        (work / "diff").mkdir(parents=True)
        fill(work)
        folder = self._folder(key)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (work / "diff").rename(folder / "diff")
        shutil.rmtree(work)
        self._made.add(key)
        return Layer(key, folder / "diff")

    def blob(self, layer: Layer) -> LayerBlob:
        """The layer's tar in the registry folder, written now if nobody needed it before."""
        note = self._folder(layer.key) / "blob.json"
        if note.is_file():
            known = json.loads(note.read_text())
            blob = LayerBlob(known["digest"], known["size"])
            if not blob.digest or oci.blob_path(self.registry, blob.digest).is_file():
                return blob
        temporary = self.registry / "blobs" / "sha256" / f".layer.{os.getpid()}"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            blob = layertar.write_layer(layer.diff, temporary)
            if blob.digest:
                oci.put_file(self.registry, temporary, blob.digest)
        finally:
            temporary.unlink(missing_ok=True)
        self.note_blob(layer.key, blob)
        return blob

    def note_blob(self, key: str, blob: LayerBlob) -> None:
        """Remembers which blob a layer is."""
        (self._folder(key) / "blob.json").write_text(json.dumps({"digest": blob.digest, "size": blob.size}))

    def remember(self, key: str, compute: Callable[[], str]) -> str:
        """A fact that follows from the key alone."""
        memo = self.root / "memo" / key
        if memo.is_file() and not self.fresh:
            return memo.read_text()
        value = compute()
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(value)
        return value

    def mount(self, identifier: str) -> Path:
        """The folder behind a cache mount. The user's own uv cache serves as the mount `uv`: torch is loaded once."""
        own = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
        if identifier == "uv" and own.is_dir() and own.stat().st_uid == os.geteuid():
            return own
        folder = self.root / "mounts" / identifier
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def prune(self) -> None:
        """Deletes layers that no build of the last seven days used."""
        limit = time.time() - _UNUSED_AFTER_S
        for folder in (self.root / "layers").glob("*"):
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder)

    def _folder(self, key: str) -> Path:
        return self.root / "layers" / key
