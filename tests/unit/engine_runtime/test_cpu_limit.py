"""The number of torch threads follows the CPU limit of the container, under either version of cgroups."""

import os
from pathlib import Path

import pytest

from headway_engine.runtime.loading import cpu_limit


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("quota", "threads"), [("70000 100000", 1), ("150000 100000", 2), ("900000 100000", 4), ("max 100000", 4)]
)
def test_version_2_limit_is_rounded_up_to_whole_cpus(tmp_path: Path, quota: str, threads: int) -> None:
    assert cpu_limit(write(tmp_path, {"cpu.max": quota + "\n"})) == threads


@pytest.mark.parametrize(("quota", "threads"), [("70000", 1), ("150000", 2), ("-1", 4)])
def test_version_1_limit_is_rounded_up_to_whole_cpus(tmp_path: Path, quota: str, threads: int) -> None:
    files = {"cpu/cpu.cfs_quota_us": quota + "\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_limit(write(tmp_path, files)) == threads


def test_no_cgroup_means_every_cpu_of_the_process(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "absent") == 4
