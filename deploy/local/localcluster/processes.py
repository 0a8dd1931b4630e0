"""The cluster's host processes: started in a session of their own, found again, stopped.

Each process carries `HEADWAY_CLUSTER=<state folder>` in its environment, and so do its children
(containerd's shims). That finds them without a pid file, after any crash. A pid file holds the
start time beside the id, because the kernel gives ids out again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .settings import Paths
from .shell import wait_until

MARK = "HEADWAY_CLUSTER"
NODE_MARK = "HEADWAY_NODE"
_STATE_FIELD, _START_FIELD = 0, 19  # of /proc/PID/stat after the command name


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process to keep running: its name is its log's and its pid file's."""

    name: str
    argv: Sequence[str | Path]
    node: int = 0  # 0: of the cluster as a whole
    netns: Path | None = None
    path: Path | None = None  # put before PATH


def parse_stat(text: str) -> tuple[str, int]:
    """State letter and start time (clock ticks) of /proc/PID/stat; the command name may hold anything."""
    fields = text.rsplit(")", 1)[1].split()
    return fields[_STATE_FIELD], int(fields[_START_FIELD])


def started_at(pid: int) -> int | None:
    """Start time of a process; None when it is gone or a zombie (for which `kill -0` still succeeds)."""
    try:
        state, start = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, IndexError):
        return None
    return None if state in "ZX" else start


def pid_of(paths: Paths, name: str) -> int | None:
    """The id of a running process by its name."""
    try:
        pid, start = map(int, (paths.pids / name).read_text().split())
    except (OSError, ValueError):
        return None
    return pid if started_at(pid) == start else None


def start(paths: Paths, daemon: Daemon) -> None:
    """Starts the process unless it runs."""
    if pid_of(paths, daemon.name) is not None:
        return
    paths.logs.mkdir(parents=True, exist_ok=True)
    paths.pids.mkdir(parents=True, exist_ok=True)
    # nsenter and not `ip netns exec`, which remounts /sys and so loses the cgroup mounts.
    prefix = ["nsenter", f"--net={daemon.netns}"] if daemon.netns else []
    # The root folder, so that a process does not keep the user's folder busy.
    argv = ["env", "--chdir=/", *prefix, *map(str, daemon.argv)]
    env = {
        "HOME": str(paths.state),
        "PATH": ":".join([*([str(daemon.path)] if daemon.path else []), "/usr/sbin:/usr/bin:/sbin:/bin"]),
        MARK: str(paths.state),
        NODE_MARK: str(daemon.node),
    }
    log = str(paths.logs / f"{daemon.name}.log")
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        # A caller's lock or pipe would stay held for as long as the process runs.
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
    ]
    # Not subprocess: a Popen wants to be waited for, and these outlive this program.
    pid = os.posix_spawnp("env", argv, env, file_actions=files, setsid=True)
    (paths.pids / daemon.name).write_text(f"{pid} {started_at(pid) or 0}\n")


def _inheritable() -> list[int]:
    """Open files beyond the standard three that a child would get."""
    found = []
    for fd in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # the listing's own is closed by now
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def require_alive(paths: Paths, *names: str) -> None:
    """Raises with the log's last lines when one of the processes has ended."""
    for name in names:
        if pid_of(paths, name) is None:
            log = paths.logs / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
            raise ClusterError(f"{name} ended right after its start; {log} ends with:\n" + "\n".join(lines))


def stop(paths: Paths, name: str, grace_s: float) -> None:
    """SIGTERM, then SIGKILL after `grace_s`."""
    pid = pid_of(paths, name)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: started_at(pid) is None, grace_s):
            kill_all([pid])
    (paths.pids / name).unlink(missing_ok=True)


def kill_all(pids: Sequence[int], timeout_s: float = 5.0) -> list[int]:
    """SIGKILL to all; returns those that are still there after `timeout_s`."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    left = list(pids)
    deadline = time.monotonic() + timeout_s
    while (left := [pid for pid in left if started_at(pid) is not None]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def marked(paths: Paths, node: int | None = None) -> list[int]:
    """Every process that carries the cluster's mark (and, if given, the node's), by whatever way it came to run."""
    wanted = [f"{MARK}={paths.state}".encode()]
    if node is not None:
        wanted.append(f"{NODE_MARK}={node}".encode())
    return [pid for pid, env in _environments() if all(word in env for word in wanted) and started_at(pid) is not None]


def command(pid: int) -> str:
    """The process's command line, for messages."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    except OSError:
        return ""


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")
