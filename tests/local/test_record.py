"""What is written down survives; what cannot be read is said in a sentence."""

from pathlib import Path

import pytest
from localcluster import record, teardown
from localcluster.errors import ClusterError
from localcluster.record import Host, Shape
from localcluster.settings import Addresses, Paths

SHAPE = Shape.of(Addresses.from_env({}), 2, netpol=True)
HOST = Host("boot", {"vm/overcommit_memory": "0"}, ["ip nat"], ["/var/lib/cni"])


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    record.save(tmp_path, SHAPE)
    record.save(tmp_path, HOST)
    assert record.load_shape(tmp_path) == SHAPE
    assert record.load_host(tmp_path) == HOST
    assert SHAPE.addresses == Addresses.from_env({})


def test_no_record_is_no_cluster(tmp_path: Path) -> None:
    assert record.load_shape(tmp_path / "absent") is None
    assert record.load_host(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nodes": 1}', '{"surprise": 1}'])
def test_an_unreadable_record_names_the_file_and_the_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ClusterError, match=r"cluster\.json is unreadable.*down --purge"):
        record.load_shape(tmp_path)


def test_a_record_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "host.json").mkdir()
    with pytest.raises(ClusterError, match="cannot be read: Is a directory"):
        record.load_host(tmp_path)


def test_a_restart_of_the_machine_ends_what_the_record_speaks_of(tmp_path: Path) -> None:
    paths = Paths(cache=tmp_path / "cache", state=tmp_path)
    record.save(tmp_path, HOST)
    (paths.node(1) / "run").mkdir(parents=True)
    (paths.node(1) / "containerd").mkdir()
    paths.pids.mkdir()
    assert teardown.reset_after_reboot(paths, HOST)
    assert record.load_host(tmp_path) is None
    assert not (paths.node(1) / "run").exists()
    assert (paths.node(1) / "containerd").exists()
    assert not paths.pids.exists()


def test_within_one_run_of_the_machine_the_record_stands(tmp_path: Path) -> None:
    here = Host(record.boot_id(), {}, [], [])
    record.save(tmp_path, here)
    assert not teardown.reset_after_reboot(Paths(tmp_path / "cache", tmp_path), here)
    assert record.load_host(tmp_path) == here
