"""The two images the cluster brings itself: `pause`, which holds a pod, and a small Debian with Python for tests.

Both are published once into the registry folder, which outlives the cluster. Headway's own images
are built elsewhere (deploy/images) and put into the same folder.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from . import ocifolder
from .errors import ClusterError
from .ocifolder import Image
from .progress import Progress
from .settings import REGISTRY_HOST, Paths
from .shell import run

PAUSE = ("pause", "1")
BASE = ("python", "bookworm")
PAUSE_SOURCE = Path(__file__).with_name("pause.c")
BASE_PACKAGES = "python3,ca-certificates"


def reference(image: tuple[str, str]) -> str:
    """The name under which a pod asks for the image. The dotted host keeps CRI from adding a public one."""
    return f"{REGISTRY_HOST}/{image[0]}:{image[1]}"


def ensure_pause(paths: Paths) -> None:
    """Compiles and publishes the pause image (a fifth of a second, once)."""
    if ocifolder.has(paths.registry, *PAUSE):
        return
    with tempfile.TemporaryDirectory() as work:
        binary, layer = Path(work, "pause"), Path(work, "layer.tar")
        run(["gcc", "-static", "-Os", "-s", "-o", binary, PAUSE_SOURCE])
        with tarfile.open(layer, "w") as tar:
            tar.add(binary, "pause", filter=_reproducible)
        ocifolder.publish(paths.registry, Image(*PAUSE, layer, entrypoint=("/pause",), user="65535"))


def ensure_base(paths: Paths) -> None:
    """Makes and publishes the Debian base image (about a minute, once)."""
    if ocifolder.has(paths.registry, *BASE):
        return
    paths.registry.mkdir(parents=True, exist_ok=True)
    progress = Progress(sys.stderr, tty=sys.stderr.isatty())
    progress.start("base image (Debian 12 with Python)")
    with tempfile.TemporaryDirectory(dir=paths.registry) as work:
        layer, log = Path(work, "base.tar"), Path(work, "log")
        argv = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={BASE_PACKAGES}",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "bookworm",
            str(layer),
        ]
        with log.open("w") as out, subprocess.Popen(argv, stdout=out, stderr=out) as child:
            while child.poll() is None:
                progress.tick()
                try:
                    child.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
        if child.returncode != 0:
            progress.failed()
            raise ClusterError("mmdebstrap could not make the base image:\n" + log.read_text()[-1500:])
        ocifolder.publish(paths.registry, Image(*BASE, layer))
    progress.done()


def _reproducible(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry
