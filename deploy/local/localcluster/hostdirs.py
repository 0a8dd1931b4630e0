"""Folders outside the state folder that kubelet, containerd and CNI make whatever their configuration says."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

FIXED = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd")
# kubelet's socket for device plugins; its place is a constant of the API.
_DEVICE_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


def absent(folders: tuple[str, ...] = FIXED) -> list[str]:
    """Those that are not there now, so that the cluster will be the one to make them."""
    return [folder for folder in folders if not Path(folder).exists()]


def remove_made(folders: list[str]) -> None:
    """Removes folders the cluster made, as far as they are empty: what another program put there stays."""
    for folder in map(Path, folders):
        if folder in _DEVICE_SOCKET.parents:
            _DEVICE_SOCKET.unlink(missing_ok=True)
        # A killed shim leaves its socket behind; one that nobody listens on is of no use to anybody.
        for path in folder.rglob("*"):
            if path.is_socket() and is_stale(path):
                path.unlink(missing_ok=True)
        inside = sorted(
            (d for d in folder.rglob("*") if d.is_dir() and not d.is_symlink()), key=lambda d: -len(d.parts)
        )
        for path in (*inside, folder):
            with suppress(OSError):
                path.rmdir()


def is_stale(path: Path) -> bool:
    """Whether nobody listens on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        try:
            s.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
