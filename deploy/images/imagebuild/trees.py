"""Trees of files: what a stack of layers looks like from above, a digest of it, and putting it somewhere else.

A layer on disk has the form that overlayfs gives it: a character device 0:0 hides the name below it, and a folder with
the attribute `trusted.overlay.opaque` hides everything below it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import BuildError

OPAQUE = "trusted.overlay.opaque"


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this entry of a layer says "deleted"."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(folder: Path) -> bool:
    """Whether this folder of a layer hides the folder below it."""
    try:
        return os.getxattr(folder, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:  # no such attribute, or a file system without attributes: then nothing is hidden
        return False


def merged(layers: Sequence[Path], source: str) -> dict[str, Path]:
    """The subtree `source` of a stack of layers (lowest first): relative path -> the file that wins, folders included.

    A single file has the relative path `""`.
    """
    relative = source.strip("/")
    tree: dict[str, Path] = {}
    for layer in layers:
        _hide_below(tree, layer, relative)
        top = layer / relative
        if not os.path.lexists(top):
            continue
        found = top.lstat()
        if is_whiteout(found):
            tree.clear()
        elif stat.S_ISDIR(found.st_mode):
            tree.pop("", None)
            _lay(tree, top)
        else:
            tree = {"": top}
    return tree


def _hide_below(tree: dict[str, Path], layer: Path, relative: str) -> None:
    """A whiteout or an opaque mark on a parent of the subtree empties it."""
    parent = layer
    for part in Path(relative).parts[:-1]:
        parent = parent / part
        if not os.path.lexists(parent):
            return
        if is_whiteout(parent.lstat()) or is_opaque(parent):
            tree.clear()
            return


def _lay(tree: dict[str, Path], top: Path) -> None:
    if is_opaque(top):
        tree.clear()
    for folder, names, files in os.walk(top):
        here = Path(folder)
        for name in (*names, *files):
            path = here / name
            relative = str(path.relative_to(top))
            found = path.lstat()
            replaces = relative in tree and not stat.S_ISDIR(found.st_mode)
            if replaces or is_whiteout(found) or (stat.S_ISDIR(found.st_mode) and is_opaque(path)):
                for below in [known for known in tree if known == relative or known.startswith(relative + "/")]:
                    del tree[below]
            if not is_whiteout(found):
                tree[relative] = path


def digest(tree: Mapping[str, Path]) -> str:
    """A hash over names, kinds, permissions and contents; not over owners and times."""
    total = hashlib.sha256()
    for relative in sorted(tree):
        path = tree[relative]
        found = path.lstat()
        total.update(f"{relative}\0{stat.S_IFMT(found.st_mode):o} {_mode(found):o}\0".encode())
        if stat.S_ISLNK(found.st_mode):
            total.update(str(path.readlink()).encode())
        elif stat.S_ISREG(found.st_mode):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def place(tree: Mapping[str, Path], target: Path, *, link: bool) -> None:
    """Puts a tree at `target`: by hard link (files of another layer, never changed) or as copies with plain permissions."""
    for relative in sorted(tree):
        source = tree[relative]
        destination = target / relative if relative else target
        found = source.lstat()
        if stat.S_ISDIR(found.st_mode):
            destination.mkdir(parents=True, exist_ok=True)
            destination.chmod(stat.S_IMODE(found.st_mode))
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(found.st_mode):
            destination.symlink_to(source.readlink())
        elif not stat.S_ISREG(found.st_mode):
            raise BuildError(f"COPY of {relative or source}: only files, folders and links can be copied")
        elif link:
            os.link(source, destination)
        else:
            shutil.copyfile(source, destination)
            destination.chmod(_mode(found))


def _mode(found: os.stat_result) -> int:
    """Permissions as git keeps them, so that a checkout's umask changes no digest."""
    return 0o755 if stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IXUSR else 0o644
