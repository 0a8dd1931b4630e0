"""The key of a build changes with everything that decides its result, and with nothing else."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from localcluster import build, versions
from localcluster.errors import ClusterError
from localcluster.settings import Paths
from localcluster.versions import GOMOD, PROGRAMS, WATCHERS, pins_key


@pytest.fixture
def gomod(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOMOD, tmp_path / "gomod"))


def test_the_same_pins_give_the_same_key_wherever_they_lie(gomod: Path) -> None:
    assert pins_key(gomod=gomod, machine="x86_64") == pins_key(machine="x86_64")
    assert pins_key(machine="x86_64").startswith(f"{versions.KUBERNETES}-")


def test_a_changed_dependency_flag_or_machine_gives_another_key(gomod: Path) -> None:
    key = pins_key(gomod=gomod, machine="x86_64")
    flagged = (dataclasses.replace(PROGRAMS[0], ldflags=""), *PROGRAMS[1:])
    assert pins_key(flagged, gomod, "x86_64") != key
    assert pins_key(gomod=gomod, machine="aarch64") != key
    with (gomod / "runc" / "go.sum").open("a") as f:
        f.write("x v1.0.0 h1:abc=\n")
    assert pins_key(gomod=gomod, machine="x86_64") != key


@pytest.mark.parametrize("program", [*PROGRAMS, *WATCHERS], ids=lambda p: p.name)
def test_every_module_asks_for_a_go_that_the_check_admits_and_names_its_commands(program: versions.Program) -> None:
    lines = (GOMOD / program.name / "go.mod").read_text().splitlines()
    asked = next(line.split()[1] for line in lines if line.startswith("go "))
    assert tuple(map(int, asked.split("."))) <= versions.GO_MINIMUM
    tools = (GOMOD / program.name / "tools.go").read_text()
    assert all(f'_ "{package}"' in tools for package in program.packages)


def test_the_version_that_a_program_reports_is_the_one_its_module_pins() -> None:
    pinned = {
        "kubernetes": f"k8s.io/kubernetes {versions.KUBERNETES}",
        "containerd": f"github.com/containerd/containerd/v2 {versions.CONTAINERD}",
        "runc": f"github.com/opencontainers/runc v{versions.RUNC}",
        "helm": f"helm.sh/helm/v4 {versions.HELM}",
    }
    for name, line in pinned.items():
        assert line in (GOMOD / name / "go.mod").read_text()


def test_binaries_are_named_after_their_package_or_their_rename() -> None:
    names = {name for program in PROGRAMS for name in program.binaries}
    assert {"etcd", "kube-apiserver", "kubectl", "kwok", "containerd-shim-runc-v2", "runc", "coredns", "helm"} <= names
    assert "v3" not in names
    assert "server" not in names


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.27rc1 linux/arm64", (1, 27, 0)),
        ("gcc (Debian)", None),
    ],
)
def test_go_version_is_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert build.parse_go_version(text) == version


def _fake_go(folder: Path, version: str, toolchain: str) -> None:
    script = folder / "go"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in env) echo {toolchain};; *) echo go version go{version} linux/amd64;; esac\n'
    )
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("version", "toolchain", "fits"),
    [
        ("1.26.8", "local", True),
        ("1.30.0", "local", True),
        ("1.26.6", "auto", True),  # fetches the toolchain that go.mod names
        ("1.26.6", "local", True),  # is told to fetch it all the same
        ("1.19.8", "auto", False),  # Debian 12's: too old to know how
    ],
)
def test_go_must_be_new_enough_or_able_to_update_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, toolchain: str, fits: bool
) -> None:
    _fake_go(tmp_path, version, toolchain)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if fits:
        assert build.go_environment().get("GOTOOLCHAIN") == ("auto" if version == "1.26.6" else None)
    else:
        with pytest.raises(ClusterError, match=f"Go {version} is too old, 1.26.8 is needed.*go.dev/dl"):
            build.go_environment()


def test_no_go_at_all_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"no `go` on the PATH.*go\.dev/dl.*1\.19: too old"):
        build.go_environment()


def test_a_finished_build_is_used_without_go_and_a_partial_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("localcluster.deps.ensure", lambda: None)
    paths = Paths(cache=tmp_path / "cache", state=tmp_path / "state")
    (paths.cache / f"{pins_key()}.partial" / "bin").mkdir(parents=True)
    with pytest.raises(ClusterError, match="no `go` on the PATH"):
        build.ensure(paths)
    build.bin_dir(paths).mkdir(parents=True)
    assert build.ensure(paths) == build.bin_dir(paths)


def test_prometheus_is_built_apart_and_with_the_way_to_discover_pods_only() -> None:
    assert pins_key(WATCHERS).startswith("prometheus-")
    assert "enable_kubernetes_sd" in WATCHERS[0].tags
    assert "remove_all_sd" in WATCHERS[0].tags
    assert WATCHERS[0].binaries == ("prometheus", "promtool")
