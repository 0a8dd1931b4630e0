"""Turns a layer on disk into the tar that goes into an image: sorted, owned by root, at time zero.

Equal content gives equal bytes, on every machine and at any time. Deletions, which overlayfs keeps as device files and
attributes, become the `.wh.` entries of the OCI format.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from . import trees

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as a registry knows it; `digest` is empty when the layer changes nothing."""

    digest: str
    size: int


class _Hashing(io.RawIOBase):
    """A file that hashes and counts what is written into it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self.hash.update(data)
        written = self._file.write(data)
        self.size += written
        return written


def write_layer(folder: Path, target: Path) -> LayerBlob:
    """Writes the tar of a layer; an unchanged layer writes nothing and says so."""
    entries = list(_entries(folder))
    if not entries:
        return LayerBlob("", 0)
    with target.open("wb") as raw:
        out = _Hashing(raw)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:
            _add(tar, entries)
    return LayerBlob(f"sha256:{out.hash.hexdigest()}", out.size)


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, names, files in os.walk(folder):
        names.sort()
        here = Path(parent)
        for name in sorted((*names, *files)):
            yield str((here / name).relative_to(folder)), here / name


def _add(tar: tarfile.TarFile, entries: list[tuple[str, Path]]) -> None:
    first_names: dict[int, str] = {}
    for name, path in sorted(entries):
        found = path.lstat()
        if trees.is_whiteout(found):
            parent, _, last = name.rpartition("/")
            tar.addfile(tarfile.TarInfo(f"{parent}/.wh.{last}".lstrip("/")))
            continue
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
            if trees.is_opaque(path):
                tar.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))
        elif stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
            tar.addfile(info)
        elif found.st_nlink > 1 and found.st_ino in first_names:
            info.type, info.linkname = tarfile.LNKTYPE, first_names[found.st_ino]
            tar.addfile(info)
        elif stat.S_ISREG(found.st_mode):
            first_names[found.st_ino] = name
            info.size = found.st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
        # sockets and pipes left by a build step mean nothing in an image
