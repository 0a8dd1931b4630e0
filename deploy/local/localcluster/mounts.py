"""Mounts below the state folder: containers' roots, pods' volumes, network namespaces."""

from __future__ import annotations

import re
from pathlib import Path

from .shell import run

_MOUNTINFO = Path("/proc/self/mountinfo")
_BATCH = 100


def parse_mountinfo(text: str, folder: Path) -> list[Path]:
    """Mount points at or below `folder`, latest first. The kernel writes space, tab and backslash in octal."""
    points = [
        Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4]))
        for line in text.splitlines()
        if line
    ]
    return [p for p in reversed(points) if p == folder or folder in p.parents]


def below(folder: Path) -> list[Path]:
    """The present mounts at or below `folder`, latest first."""
    return parse_mountinfo(_MOUNTINFO.read_text(), folder)


def mounted_at(path: Path) -> bool:
    """Whether something is mounted exactly there (ismount does not see a namespace's bind mount)."""
    return path in below(path)


def remove_below(folder: Path) -> None:
    """Unmounts everything below `folder`; what is busy goes lazily, which detaches it at once."""
    for options in ((), ("-l",)):
        points = below(folder)
        for i in range(0, len(points), _BATCH):
            run(["umount", *options, *points[i : i + _BATCH]], check=False)
