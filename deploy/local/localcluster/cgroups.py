"""One cgroup root per node: two kubelets that share `/kubepods` would delete each other's pods.

cgroup v1 has a tree per controller, and the root must exist in each; cgroup v2 has one tree, where
the controllers must be enabled on the way down.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .errors import ClusterError
from .settings import MAX_NODES, node_name

ROOT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


def is_v2(root: Path = ROOT) -> bool:
    """Whether the host has the unified hierarchy only."""
    return (root / "cgroup.controllers").exists()


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The trees in which a node's root must exist; `unified` beside v1 trees carries no controller."""
    if is_v2(root):
        return [root]
    return sorted(
        d
        for d in root.iterdir()
        if d.is_dir() and not d.is_symlink() and d.name != "unified" and (d / "cgroup.procs").exists()
    )


def node_roots(index: int, root: Path = ROOT) -> list[Path]:
    """The folders of node `index`, one per tree, whether or not they exist; runc makes one in `unified` too."""
    trees = hierarchies(root) + ([root / "unified"] if (root / "unified").is_dir() else [])
    return [tree / node_name(index) for tree in trees]


def make(index: int, root: Path = ROOT) -> None:
    """Makes the node's root in every tree, ready for kubelet."""
    if is_v2(root):
        wanted = [c for c in V2_CONTROLLERS if c in (root / "cgroup.controllers").read_text().split()]
        present = (root / "cgroup.subtree_control").read_text().split()
        lacking = " ".join(f"+{c}" for c in wanted if c not in present)
        if lacking:
            try:
                (root / "cgroup.subtree_control").write_text(lacking)
            except OSError as err:
                raise ClusterError(f"cannot enable the cgroup controllers {lacking} in {root}: {err.strerror}") from err
    for tree in hierarchies(root):
        folder = tree / node_name(index)
        folder.mkdir(exist_ok=True)
        # A v1 cpuset starts empty, and no process may enter it then.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not is_v2(root) and (folder / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((folder.parent / name).read_text())


def pids(index: int, root: Path = ROOT) -> list[int]:
    """Every process in the node's cgroups: its containers, also those whose shim is dead."""
    found: set[int] = set()
    for folder in node_roots(index, root):
        for procs in folder.rglob("cgroup.procs") if folder.exists() else ():
            with suppress(OSError):
                found.update(int(line) for line in procs.read_text().split())
    return sorted(found - {0})


def remove(index: int, root: Path = ROOT) -> None:
    """Removes the node's empty cgroups, leaves first."""
    for folder in node_roots(index, root):
        if folder.exists():
            for child in sorted((d for d in folder.rglob("*") if d.is_dir()), key=lambda d: -len(d.parts)):
                with suppress(OSError):
                    child.rmdir()
            with suppress(OSError):
                folder.rmdir()


def present(root: Path = ROOT) -> list[Path]:
    """The cgroups of any node that exist."""
    return [folder for i in range(1, MAX_NODES + 1) for folder in node_roots(i, root) if folder.exists()]
