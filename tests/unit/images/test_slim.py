"""What slim.py removes from an installation, and what it must leave."""

from pathlib import Path

import slim


def make(site: Path, *names: str) -> None:
    for name in names:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x = 1\n")


def test_tests_headers_and_stubs_go_and_testing_modules_stay(tmp_path: Path) -> None:
    make(
        tmp_path,
        "numpy/tests/a.py",
        "numpy/testing/b.py",
        "torch/include/c.h",
        "torch/testing/d.py",
        "x/y.pyi",
        "x/z.a",
    )
    slim.slim(tmp_path, cpu=False)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert left == {"numpy/testing/b.py", "torch/testing/d.py"}


def test_bytecode_is_used_whatever_the_time_stamps_say(tmp_path: Path) -> None:
    make(tmp_path, "package/module.py")
    slim.slim(tmp_path, cpu=False)
    compiled = next((tmp_path / "package/__pycache__").glob("module.*.pyc")).read_bytes()
    assert int.from_bytes(compiled[4:8], "little") == 0b01, "hash-based, unchecked"


def test_model_families_that_nobody_serves_have_no_bytecode(tmp_path: Path) -> None:
    make(tmp_path, "transformers/models/llama/a.py", "transformers/models/whisper/b.py")
    slim.slim(tmp_path, cpu=False)
    assert [path.parent.parent.name for path in tmp_path.rglob("*.pyc")] == ["llama"]


def test_only_a_cpu_image_loses_the_gpu_profiler(tmp_path: Path) -> None:
    make(tmp_path, "nvidia/cu13/lib/libnvperf_host.so", "nvidia/cu13/lib/libcudart.so.13")
    slim.slim(tmp_path, cpu=False)
    assert (tmp_path / "nvidia/cu13/lib/libnvperf_host.so").exists()
    slim.slim(tmp_path, cpu=True)
    assert not (tmp_path / "nvidia/cu13/lib/libnvperf_host.so").exists()
    assert (tmp_path / "nvidia/cu13/lib/libcudart.so.13").exists()
