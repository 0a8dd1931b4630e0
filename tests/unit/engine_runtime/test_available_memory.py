"""A KV cache that the machine or the container cannot hold is refused before it is taken."""

import math
from pathlib import Path

import pytest
import torch
from small_decoder import SHAPE

from headway_engine.runtime import loading
from headway_engine.runtime.config import EngineConfig, ModelLoadError
from headway_engine.runtime.loading import MIB, available_memory


def test_it_is_what_the_machine_has_or_less_where_the_cgroup_has_less(tmp_path: Path) -> None:
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal:       2048 kB\nMemAvailable:   1024 kB\n")
    assert available_memory(tmp_path, machine) == MIB
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 500000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path, machine) == MIB
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory(tmp_path, machine) == 4000
    assert available_memory(tmp_path / "absent", tmp_path / "absent") == math.inf


def test_a_cache_larger_than_that_is_refused_by_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 100.0 * MIB)

    def blocks(mib: int) -> int:
        config = EngineConfig(Path("model"), kv_cache_memory_mib=mib)
        return loading._num_blocks(config, SHAPE, torch.device("cpu"), torch.float32)

    assert blocks(100) > 0
    with pytest.raises(ModelLoadError, match="--kv-cache-memory-mib 101: 100 MiB of memory are free"):
        blocks(101)
