"""Executes one RUN: the layers below as an overlay, a new mount and process namespace, chroot, the command.

The overlay's upper folder is the layer. Everything mounted dies with the namespace, also when the build is killed.
The network is the host's; its resolver and its certificates are visible during the step and leave no trace in the layer.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import trees
from .errors import BuildError

_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_BUNDLE_INSIDE = "/run/build/ca.crt"
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_TOOLS = ("unshare", "mount", "chroot")
_LINES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what it sees. `mounts` maps absolute paths in the image to folders of this machine."""

    command: str
    env: Mapping[str, str]
    workdir: str
    user: str
    mounts: Mapping[str, Path]


def require() -> None:
    """Says what is missing before minutes are spent."""
    if os.geteuid() != 0:
        raise BuildError(
            "building without a container engine needs root (it mounts and chroots): use sudo, or --engine docker|podman"
        )
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"missing {', '.join(missing)} (Debian: apt-get install util-linux mount coreutils)")


def run(step: Step, layers: Sequence[Path], work: Path, tick: Callable[[], None]) -> None:
    """Runs the step over `layers` (lowest first) and leaves what it changed in `work/diff`."""
    for name in ("root", "overlay"):
        (work / name).mkdir()
    log = work / "log"
    script = _script(step, layers, work)
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", script]
    with log.open("w") as out, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as child:
        while child.poll() is None:
            try:
                child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                tick()
    if child.returncode != 0:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:])
        raise BuildError(f"RUN {step.command}\nfailed with exit code {child.returncode}:\n{said}")
    _forget_mount_points(step, layers, work / "diff")


def environment(step: Step) -> dict[str, str]:
    """What the command finds in its environment: the image's, the proxies of this machine, its certificates."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    env |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
    env |= {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "0"}
    if _BUNDLE.is_file():
        env |= dict.fromkeys(_CERTIFICATES, _BUNDLE_INSIDE)
    return env | dict(step.env)


def _script(step: Step, layers: Sequence[Path], work: Path) -> str:
    quote = shlex.quote
    root = work / "root"
    # overlayfs takes the options in one page: names relative to the folder of all layers keep them short.
    home = layers[0].parent.parent
    lower = ":".join(str(layer.relative_to(home)) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={work}/diff,workdir={work}/overlay,redirect_dir=off,metacopy=off,index=off"
    lines = [
        "set -e",
        f"cd {quote(str(home))}",
        f"mount -t overlay overlay -o {quote(options)} {quote(str(root))}",
        f"cd {quote(str(root))}",
        "mkdir -p proc dev run etc tmp",
        "mount -t proc proc proc",
        "mount -t tmpfs -o mode=755 tmpfs dev",
        "mount -t tmpfs -o mode=755 tmpfs run",
        "mkdir -p run/build dev/shm",
        "chmod 1777 dev/shm",
        "ln -s /proc/self/fd dev/fd",
    ]
    lines += [f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in _DEVICES]
    if _BUNDLE.is_file():
        lines.append(f"cp -L {_BUNDLE} .{_BUNDLE_INSIDE}")
    lines += [
        "cat /etc/resolv.conf > run/build/resolv.conf",
        "[ -e etc/resolv.conf ] || : > etc/resolv.conf",
        "mount --bind run/build/resolv.conf etc/resolv.conf",
    ]
    for target, source in step.mounts.items():
        lines += [f"mkdir -p {quote('.' + target)}", f"mount --bind {quote(str(source))} {quote('.' + target)}"]
    variables = " ".join(quote(f"{name}={value}") for name, value in environment(step).items())
    who = f"--userspec={quote(step.user)} " if step.user else ""
    inner = f"cd {quote(step.workdir)} && {step.command}"
    lines.append(f"exec chroot {who}{quote(str(root))} /usr/bin/env -i {variables} /bin/sh -c {quote(inner)}")
    return "\n".join(lines)


def _forget_mount_points(step: Step, layers: Sequence[Path], diff: Path) -> None:
    """Takes out of the layer what was only made to mount something on it."""
    resolver = diff / "etc" / "resolv.conf"
    if resolver.is_file() and resolver.stat().st_size == 0 and not _exists("etc/resolv.conf", layers):
        resolver.unlink()
    points = ["proc", "dev", "run", "etc", "tmp", *(target.strip("/") for target in step.mounts)]
    for point in points:
        for relative in (point, *(str(parent) for parent in Path(point).parents if str(parent) != ".")):
            folder = diff / relative
            if not folder.is_dir() or folder.is_symlink() or trees.is_opaque(folder) or any(folder.iterdir()):
                break
            folder.rmdir()


def _exists(relative: str, layers: Sequence[Path]) -> bool:
    return any(os.path.lexists(layer / relative) for layer in layers)
