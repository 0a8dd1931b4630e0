"""The command line: arguments, other providers, and what it says when something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from localcluster import cli, deps
from localcluster.deps import PACKAGES
from localcluster.errors import ClusterError

ENTRY = Path(cli.__file__).parent.parent / "cluster.py"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HEADWAY_CLUSTER_STATE", str(tmp_path / "s"))
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_help_names_every_command_and_runs_with_the_plain_python_of_the_system(tmp_path: Path) -> None:
    # -S: without site-packages, as on a bare system.
    argv = [sys.executable, "-S", str(ENTRY), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=True)
    for name in ("up", "down", "status", "kubeconfig", "env", "build", "deps", "fake-nodes", "fake-gpus", "kill-node"):
        assert f"\n    {name} " in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["up", "--nodes", "3"],
        ["up", "--nodes", "x"],
        ["kill-node"],
        ["fake-nodes", "1"],
        ["--provider", "gke", "up"],
    ],
)
def test_bad_arguments_are_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_kubeconfig_and_env_print_paths_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kubeconfig"]) == 0
    assert cli.main(["env"]) == 0
    path, kubeconfig, binaries = capsys.readouterr().out.splitlines()
    assert path == f"{tmp_path}/s/admin.kubeconfig"
    assert kubeconfig == f"export KUBECONFIG={path}"
    assert binaries.startswith(f"export PATH={tmp_path}/.cache/headway/cluster/v1.")


def test_registry_dir_is_made_even_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["registry-dir"]) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path}/.cache/headway/registry"
    assert (tmp_path / ".cache/headway/registry").is_dir()


def test_status_of_no_cluster_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().out == "down: there is no cluster; `make cluster` starts one\n"


def test_status_with_an_unreadable_record_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cluster.json").write_text("{")
    assert cli.main(["status"]) == 1
    assert "cluster.json is unreadable" in capsys.readouterr().err


def test_fake_gpus_without_a_cluster_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fake-gpus", "headway-1", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: no cluster has been started here")


@pytest.mark.parametrize("command", [["up"], ["down"], ["kill-node", "2"], ["fake-nodes", "1", "8"]])
def test_without_root_the_message_names_the_ways_out(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "needs root" in error
    assert "CLUSTER=kind" in error


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_kind_without_kind_says_so(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["--provider", "kind", command]) == 1
    assert "there is no `kind` on the PATH" in capsys.readouterr().err


def _program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/calls\n{script}\n')
    (folder / name).chmod(0o755)


def test_kind_creates_its_cluster_once_with_a_kubeconfig_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    script = f'case "$1" in get) cat {tools}/made 2>/dev/null || true;; create) cat > {tools}/config; echo headway > {tools}/made;; esac'
    _program(tools, "kind", f"PATH=/usr/bin:/bin\n{script}")
    monkeypatch.setenv("PATH", str(tools))
    for _ in range(2):
        assert cli.main(["--provider", "kind", "up", "--nodes", "2"]) == 0
    assert "is there already" in capsys.readouterr().out
    calls = (tools / "calls").read_text().splitlines()
    created = [line for line in calls if line.startswith("kind create")]
    assert created == [
        f"kind create cluster --wait 180s --config - --name headway --kubeconfig {tmp_path}/kind.kubeconfig"
    ]
    assert (tools / "config").read_text().count("- role: worker") == 1
    assert cli.main(["--provider", "kind", "down"]) == 0
    assert (tools / "calls").read_text().splitlines()[-1].startswith("kind delete cluster --name headway")


def test_current_only_looks_and_never_stops_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    _program(tools, "kubectl", 'case "$1" in config) echo mine;; *) echo ok;; esac')
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("KUBECONFIG", "/my/config")
    for command in ("up", "status", "kubeconfig", "down"):
        assert cli.main(["--provider", "current", command]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "context 'mine' answers",
        "context 'mine' answers",
        "/my/config",
        "CLUSTER=current: your own cluster is left as it is",
    ]
    assert set((tools / "calls").read_text().splitlines()) == {
        "kubectl config current-context",
        "kubectl get --raw /readyz --request-timeout=10s",
    }


def test_current_that_does_not_answer_is_said_with_kubectls_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    _program(tools, "kubectl", 'case "$1" in config) echo mine;; *) echo connection refused >&2; exit 1;; esac')
    monkeypatch.setenv("PATH", str(tools))
    assert cli.main(["--provider", "current", "up"]) == 1
    assert "context 'mine' does not answer: connection refused" in capsys.readouterr().err


def test_a_command_of_the_own_cluster_is_refused_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--provider", "current", "kill-node", "1"]) == 1
    assert "`kill-node` is for the own local cluster only" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [p for p in PACKAGES if p.name in ("nftables", "mmdebstrap")]
    monkeypatch.setattr(deps, "missing", lambda: wanted)
    monkeypatch.setattr(deps, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError) as error:
        deps.ensure()
    assert "nftables (NetworkPolicy), mmdebstrap (the base image)" in str(error.value)
    assert str(error.value).endswith("apt-get install -y --no-install-recommends nftables mmdebstrap")


def test_a_system_without_apt_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "missing", lambda: [PACKAGES[0]])
    monkeypatch.setattr(deps, "which", lambda _: None)
    with pytest.raises(ClusterError, match=r"ca-certificates.*no apt-get"):
        deps.ensure()


def test_a_package_is_missing_when_its_file_or_command_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "which", lambda command: None if command == "nft" else f"/usr/bin/{command}")
    assert "nftables" in [p.name for p in deps.missing()]
