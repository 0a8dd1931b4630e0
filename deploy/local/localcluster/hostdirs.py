"""Folders outside the state folder that kubelet, containerd and CNI make whatever their configuration says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FIXED = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd")
# kubelet's socket for device plugins; its place is a constant of the API.
_DEVICE_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


def absent(folders: tuple[str, ...] = FIXED) -> list[str]:
    """Those that are not there now, so that the cluster will be the one to make them."""
    return [folder for folder in folders if not Path(folder).exists()]


def remove_made(folders: list[str], socket: Path = _DEVICE_SOCKET) -> None:
    """Removes folders the cluster made, as far as they are empty: what another program put there stays."""
    for folder in map(Path, folders):
        if folder in socket.parents:
            socket.unlink(missing_ok=True)
        inside = sorted(
            (d for d in folder.rglob("*") if d.is_dir() and not d.is_symlink()), key=lambda d: -len(d.parts)
        )
        for path in (*inside, folder):
            with suppress(OSError):
                path.rmdir()
