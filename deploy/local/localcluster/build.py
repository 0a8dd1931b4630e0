"""Builds the pinned binaries once into the user's cache.

Each program is compiled into a folder of its own and then renamed into the partial build, and the
partial build is renamed to its final name at the end: a killed build never looks finished, and the
next one takes up where it stopped (Go's own cache keeps what was compiled inside a program).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import deps
from .errors import ClusterError
from .lock import alone
from .progress import Progress
from .settings import Paths
from .shell import run
from .versions import GO_FLAGS, GO_MINIMUM, GO_SELF_UPDATING, GOMOD, PROGRAMS, WATCHERS, Program, pins_key

STAGES = "kwok-stages.yaml"
_KWOK_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)


def bin_dir(paths: Paths, programs: tuple[Program, ...] = PROGRAMS) -> Path:
    """Where the binaries of the current pins are, or will be."""
    return paths.cache / pins_key(programs) / "bin"


def ensure(paths: Paths) -> Path:
    """Returns the folder of the cluster's binaries, building them first when they are not there."""
    if not bin_dir(paths).is_dir():
        deps.ensure()
    return _ensure(paths, PROGRAMS, "Kubernetes and its parts")


def ensure_watchers(paths: Paths) -> Path:
    """Returns the folder of Prometheus and promtool, building them first when they are not there."""
    return _ensure(paths, WATCHERS, "Prometheus and promtool")


def _ensure(paths: Paths, programs: tuple[Program, ...], what: str) -> Path:
    done = bin_dir(paths, programs)
    if done.is_dir():
        return done
    environment = {**os.environ, **go_environment()}
    with alone(paths.cache / "build.lock", "another process builds binaries"):
        if done.is_dir():  # another process has built them meanwhile
            return done
        partial = paths.cache / f"{pins_key(programs)}.partial"
        (partial / "bin").mkdir(parents=True, exist_ok=True)
        # Standard output is for the folder: scripts read it.
        print(f"building {what} from Go modules, once, into {done}", file=sys.stderr, flush=True)
        progress = Progress(sys.stderr, tty=sys.stderr.isatty())
        for number, program in enumerate(programs, start=1):
            if not all((partial / "bin" / name).exists() for name in program.binaries):
                progress.start(f"[{number}/{len(programs)}] {program.name}")
                _build(program, partial, progress, environment)
                progress.done()
        if "kwok" in {name for program in programs for name in program.binaries}:
            _collect_stages(partial / "bin" / STAGES, environment)
        partial.rename(done.parent)
    return done


def go_environment() -> dict[str, str]:
    """What to set for `go`. Raises unless the Go on the PATH is new enough, or can fetch a new enough one by itself."""
    needed = ".".join(map(str, GO_MINIMUM))
    cure = (
        f"Install Go {needed} or newer from https://go.dev/dl/ and put its bin folder on the PATH "
        "(Debian 12's golang package is 1.19: too old)"
    )
    if not shutil.which("go"):
        raise ClusterError(f"building the local cluster needs Go, and there is no `go` on the PATH. {cure}.")
    said = run(["go", "version"])
    found = parse_go_version(said)
    if found is None:
        raise ClusterError(f"`go version` says {said.strip()!r}, which names no version. {cure}.")
    if found < GO_SELF_UPDATING:
        raise ClusterError(f"Go {'.'.join(map(str, found))} is too old, {needed} is needed. {cure}.")
    common = {"GOFLAGS": GO_FLAGS, "GOWORK": "off"}
    # Some images pin GOTOOLCHAIN=local, which would refuse the newer Go that go.mod asks for.
    return common if found >= GO_MINIMUM else {**common, "GOTOOLCHAIN": "auto"}


def parse_go_version(text: str) -> tuple[int, int, int] | None:
    """Reads `go version go1.26.8 linux/amd64`; None when it is not of that form."""
    match = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def _build(program: Program, partial: Path, progress: Progress, environment: dict[str, str]) -> None:
    out = partial / f"{program.name}.tmp"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    argv = ["go", "build", "-v", "-ldflags", f"-s -w {program.ldflags}".strip(), "-o", f"{out}/"]
    argv += ["-tags", program.tags] if program.tags else []
    env = {**environment, "CGO_ENABLED": "1" if program.cgo else "0"}
    with (partial / f"{program.name}.log").open("w+") as log:
        child = subprocess.Popen([*argv, *program.packages], cwd=GOMOD / program.name, env=env, stdout=log, stderr=log)
        try:
            while child.poll() is None:
                progress.tick(_doing(Path(log.name)))
                try:
                    child.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.terminate()
            child.wait()
            raise
        if child.returncode != 0:
            progress.failed()
            log.seek(0)
            lines = [line for line in log.read().splitlines() if not line.startswith("go: downloading")]
            raise ClusterError(f"building {program.name} failed:\n" + "\n".join(lines[-15:]))
    for old, new in program.renames.items():
        (out / old).rename(out / new)
    for name in program.binaries:
        (out / name).rename(partial / "bin" / name)
    out.rmdir()
    (partial / f"{program.name}.log").unlink()


def _doing(log: Path) -> str:
    """The last line `go build -v` has written: a package compiled or a module downloaded."""
    with log.open("rb") as f:
        f.seek(max(0, log.stat().st_size - 300))
        lines = f.read().decode(errors="replace").splitlines()
    return lines[-1].removeprefix("go: ")[:70] if lines else ""


def _collect_stages(target: Path, environment: dict[str, str]) -> None:
    """Joins the kwok rules for fake nodes and pods, which its module ships as separate files."""
    module = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"],
        cwd=GOMOD / "kubernetes",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folder = Path(module) / "kustomize" / "stage"
    target.write_text("\n---\n".join((folder / f"{name}.yaml").read_text() for name in _KWOK_STAGES))
