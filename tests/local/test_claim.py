"""Demos and end-to-end runs take turns on a cluster of this machine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import claim
import pytest

FOLDER = Path(claim.__file__).parent
SCRIPT = """
import sys
from claim import claimed
with claimed(sys.argv[1], sys.argv[2]):
    print("has it", flush=True)
    sys.stdin.readline()
"""


class Run:
    """A demo or a test run that wants the cluster, and has it until it is told to end."""

    def __init__(self, provider: str, what: str) -> None:
        self.process = Popen(
            [sys.executable, "-c", SCRIPT, provider, what], cwd=FOLDER, stdin=PIPE, stdout=PIPE, text=True
        )

    def says(self) -> str:
        """Its next line; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """It ends as it should."""
        self.process.communicate("\n", timeout=60)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def demo() -> Iterator[Run]:
    run = Run("own", "make demo")
    assert run.says() == "has it"
    yield run
    run.process.kill()
    run.process.communicate()


def test_a_second_run_says_who_has_the_cluster_since_when_and_waits(demo: Run) -> None:
    second = Run("own", "make test-cluster")
    said = second.says()
    assert f"cluster own: make demo (process {demo.process.pid}, in " in said
    assert "uses it since 20" in said
    assert "Ctrl-C gives up" in said
    demo.end()
    assert second.says() == "has it"
    second.end()


def test_a_run_that_is_killed_leaves_no_claim(demo: Run) -> None:
    demo.process.kill()
    demo.process.wait()
    second = Run("own", "make test-cluster")
    assert second.says() == "has it"
    second.end()


def test_what_a_run_starts_and_leaves_behind_does_not_hold_its_claim() -> None:
    with claim.claimed("own", "make demo"):
        left = subprocess.Popen(["cat"], stdin=PIPE, close_fds=False)
    second = Run("own", "make test-cluster")
    assert second.says() == "has it"
    second.end()
    left.communicate()


@pytest.mark.parametrize("provider", ["kind", "current"])
def test_another_cluster_is_free(demo: Run, provider: str) -> None:
    assert demo.process.poll() is None
    second = Run(provider, "make demo")
    assert second.says() == "has it"
    second.end()


def test_a_cluster_of_the_user_is_claimed_by_nobody() -> None:
    with claim.claimed("current", "make demo"):
        second = Run("current", "make demo")
        assert second.says() == "has it"
        second.end()
