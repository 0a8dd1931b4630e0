"""Processes are known by id and start time, found by their mark, and stopped for good."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster import processes
from localcluster.errors import ClusterError
from localcluster.processes import Daemon
from localcluster.settings import Paths

IGNORES_TERM = (
    "import signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); signal.pause()"
)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    made = Paths(cache=tmp_path / "cache", state=tmp_path / "state")
    yield made
    processes.kill_all(processes.marked(made))


def _python(code: str, name: str = "it", node: int = 0) -> Daemon:
    return Daemon(name, [sys.executable, "-c", code], node=node)


def _wait_for_log(paths: Paths, name: str) -> None:
    deadline = time.monotonic() + 10
    while not (paths.logs / f"{name}.log").read_text():
        assert time.monotonic() < deadline


def test_stat_is_read_whatever_the_program_is_called() -> None:
    fields = ["R", *map(str, range(4, 22)), "777", "0"]
    assert processes.parse_stat(f"5 (a) S (b) {' '.join(fields)}") == ("R", 777)


def test_a_zombie_is_not_running() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.started_at(child.pid) is None


def test_starting_twice_keeps_the_first(paths: Paths) -> None:
    processes.start(paths, _python("import signal; signal.pause()"))
    first = processes.pid_of(paths, "it")
    processes.start(paths, _python("import signal; signal.pause()"))
    assert first is not None
    assert processes.pid_of(paths, "it") == first


def test_an_id_that_the_kernel_gave_to_another_process_is_not_ours(paths: Paths) -> None:
    paths.pids.mkdir(parents=True)
    (paths.pids / "it").write_text(f"{os.getpid()} 1\n")
    assert processes.pid_of(paths, "it") is None
    processes.stop(paths, "it", 0.1)  # would end this test run if it believed the id
    assert not (paths.pids / "it").exists()


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(paths: Paths) -> None:
    processes.start(paths, _python(IGNORES_TERM))
    _wait_for_log(paths, "it")
    pid = processes.pid_of(paths, "it")
    assert pid is not None
    processes.stop(paths, "it", 0.1)
    assert processes.started_at(pid) is None


def test_marked_processes_are_found_without_their_pid_file_and_by_node(paths: Paths) -> None:
    for node, name in ((1, "one"), (2, "two")):
        processes.start(paths, _python("import signal; print(1, flush=True); signal.pause()", name, node))
        _wait_for_log(paths, name)  # between two programs, while `env` becomes Python, a process has no environment
    one, two = processes.pid_of(paths, "one"), processes.pid_of(paths, "two")
    for name in ("one", "two"):
        (paths.pids / name).unlink()
    assert set(processes.marked(paths)) == {one, two}
    assert processes.marked(paths, node=2) == [two]
    assert processes.marked(Paths(paths.cache, paths.state / "other")) == []


def test_an_ended_process_is_reported_with_the_end_of_its_log(paths: Paths) -> None:
    processes.start(paths, _python("raise SystemExit('port 6443 is taken')"))
    pid = int((paths.pids / "it").read_text().split()[0])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ClusterError, match=r"it ended right after its start.*\n.*port 6443 is taken"):
        processes.require_alive(paths, "it")


def test_a_lock_of_the_caller_is_not_held_on_by_the_process(paths: Paths, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        processes.start(paths, _python("import signal; print(1, flush=True); signal.pause()"))
    _wait_for_log(paths, "it")
    pid = processes.pid_of(paths, "it")
    assert {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()} == {"/dev/null", f"{paths.logs}/it.log"}
