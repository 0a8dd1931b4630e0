"""Debian packages the cluster needs, found by the files they provide and installed with apt-get as root."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

CNI_BIN = Path("/usr/lib/cni")
_SBIN = ("/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package and the one file or command whose absence means that it is missing."""

    name: str
    proof: str
    why: str


PACKAGES = (
    Package("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "TLS to the Go module proxy"),
    Package("openssl", "openssl", "the cluster's certificates"),
    Package("gcc", "gcc", "runc and the pause program"),
    Package("libc6-dev", "/usr/include/stdio.h", "runc and the pause program"),
    Package("pkg-config", "pkg-config", "finding libseccomp for runc"),
    Package("libseccomp-dev", "/usr/include/seccomp.h", "runc"),
    Package("iproute2", "ip", "the node network"),
    Package("iptables", "iptables-save", "kube-proxy"),
    Package("nftables", "nft", "NetworkPolicy"),
    Package("containernetworking-plugins", f"{CNI_BIN}/bridge", "the pod network"),
    Package("mmdebstrap", "mmdebstrap", "the base image"),
    Package("util-linux", "nsenter", "the second node"),
    Package("mount", "umount", "taking mounts back"),
)


def which(command: str) -> str | None:
    """Finds a command, also in the sbin folders that a user's PATH may lack."""
    return shutil.which(command) or next((found for d in _SBIN if (found := shutil.which(command, path=d))), None)


def missing() -> list[Package]:
    """The packages whose proof is absent."""
    return [p for p in PACKAGES if not (Path(p.proof).exists() if p.proof.startswith("/") else which(p.proof))]


def install_command(packages: list[Package]) -> str:
    """What to type as root."""
    return "apt-get install -y --no-install-recommends " + " ".join(p.name for p in packages)


def ensure() -> None:
    """Installs what is missing as root; otherwise says what to type."""
    if platform.system() != "Linux":
        raise ClusterError(f"the local cluster runs on Linux only, not on {platform.system()}; use CLUSTER=kind")
    wanted = missing()
    if not wanted:
        return
    listing = ", ".join(f"{p.name} ({p.why})" for p in wanted)
    if not which("apt-get"):
        raise ClusterError(f"missing on this machine: {listing}. It has no apt-get: install their equivalents by hand")
    if os.geteuid() != 0:
        raise ClusterError(f"missing Debian packages: {listing}. Install them as root:\n  {install_command(wanted)}")
    print(f"installing Debian packages: {listing}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", install_command(wanted)):
        done = subprocess.run(command.split(), env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"`{command}` failed ({done.returncode}): {done.stderr.strip()[-800:]}")
    if still := missing():
        raise ClusterError("apt-get succeeded, yet this is still missing: " + ", ".join(p.proof for p in still))


def require_root() -> None:
    """The cluster makes bridges, mounts and cgroups: that takes root, and a plain sentence when it is not there."""
    if os.geteuid() != 0:
        raise ClusterError(
            "the local cluster needs root (it makes a bridge, mounts and cgroups); run it with sudo, "
            "or use CLUSTER=kind or CLUSTER=current"
        )
