"""Cgroup roots on both versions, on a folder that looks like the kernel's."""

from pathlib import Path

import pytest
from localcluster import cgroups


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for tree in ("cpu", "cpuset", "memory", "systemd", "unified"):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "cgroup.procs").write_text("1\n")
    (tmp_path / "cpu,cpuacct").symlink_to("cpu")
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    (tmp_path / "cgroup.procs").write_text("1\n")
    return tmp_path


def test_v1_has_a_root_in_every_tree_with_a_controller(v1: Path) -> None:
    assert not cgroups.is_v2(v1)
    assert [tree.name for tree in cgroups.hierarchies(v1)] == ["cpu", "cpuset", "memory", "systemd"]
    cgroups.make(1, v1)
    assert sorted(str(p.relative_to(v1)) for p in cgroups.present(v1)) == [
        "cpu/headway-1",
        "cpuset/headway-1",
        "memory/headway-1",
        "systemd/headway-1",
    ]


def test_v1_what_runc_makes_in_the_unified_tree_is_found_and_removed_too(v1: Path) -> None:
    (v1 / "unified" / "headway-2" / "kubepods" / "pod1").mkdir(parents=True)
    assert cgroups.present(v1) == [v1 / "unified" / "headway-2"]
    cgroups.remove(2, v1)
    assert cgroups.present(v1) == []


def test_v2_enables_the_controllers_that_are_not_enabled(v2: Path) -> None:
    assert cgroups.is_v2(v2)
    cgroups.make(1, v2)
    assert (v2 / "cgroup.subtree_control").read_text() == "+cpuset +io +pids"
    assert cgroups.present(v2) == [v2 / "headway-1"]


def test_processes_of_a_node_are_those_of_all_its_cgroups(v2: Path) -> None:
    for folder, pids in (("headway-1/kubepods/a", "11\n12\n"), ("headway-1/b", "12\n13\n"), ("headway-2/c", "99\n")):
        (v2 / folder).mkdir(parents=True)
        (v2 / folder / "cgroup.procs").write_text(pids)
    assert cgroups.pids(1, v2) == [11, 12, 13]


def test_a_cgroup_of_somebody_else_is_never_ours(v1: Path) -> None:
    (v1 / "cpu" / "kubepods").mkdir()
    (v1 / "cpu" / "headway-10").mkdir()
    for index in (1, 2):
        cgroups.remove(index, v1)
    assert (v1 / "cpu" / "kubepods").exists()
    assert (v1 / "cpu" / "headway-10").exists()
    assert cgroups.present(v1) == []
