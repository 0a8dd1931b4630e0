"""Cutting pages out of an ELF file, on a small library that the C compiler made."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import shrink_torch
from shrink_torch import Cut, Elf, Segment

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
PAGES = 64

SOURCE = f"""
__attribute__((section(".nv_fatbin,\\"a\\",@progbits#"))) const char code[{PAGES} * 4096] = {{CODE}};
const char *after = "after";
static int counter = 41;
int answer(void) {{{{ return ++counter; }}}}
int sum(void) {{{{ int s = 0; for (int i = 0; i < sizeof code; i++) s += code[i]; return s; }}}}
const char *text(void) {{{{ return after; }}}}
"""


def library(folder: Path, code: str) -> Path:
    path = folder / "torch" / "lib" / "libtorch_cuda.so"
    path.parent.mkdir(parents=True)
    argv = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O0",
        "-x",
        "c",
        "-",
        "-o",
        str(path),
        "-Wl,--build-id",
        "-Wl,-z,max-page-size=4096",
    ]
    subprocess.run(argv, input=SOURCE.format(CODE=code), text=True, check=True)
    return path


@needs_gcc
def test_the_zeroed_section_leaves_the_file_and_stays_in_memory(tmp_path: Path) -> None:
    path = library(tmp_path, "{0}")
    before = path.stat().st_size
    lost = shrink_torch.shrink(path)
    assert lost >= (PAGES - 2) * 4096
    assert path.stat().st_size == before - lost
    loaded = ctypes.CDLL(str(path))
    loaded.text.restype = ctypes.c_char_p
    assert (loaded.answer(), loaded.sum(), loaded.text()) == (42, 0, b"after")


@needs_gcc
def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    path = library(tmp_path, "{0}")
    shrink_torch.shrink(path)
    once = path.read_bytes()
    assert shrink_torch.shrink(path) == 0
    assert path.read_bytes() == once


@needs_gcc
def test_real_code_is_never_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = library(tmp_path, "{[5000] = 1}")
    before = path.read_bytes()
    assert shrink_torch.main(tmp_path) == 1
    assert "run cpu_torch.py first" in capsys.readouterr().err
    assert path.read_bytes() == before


@needs_gcc
def test_the_file_that_the_wheel_cache_shares_is_left_alone(tmp_path: Path) -> None:
    path = library(tmp_path, "{0}")
    cached = tmp_path / "cached.so"
    cached.hardlink_to(path)
    before = cached.read_bytes()
    shrink_torch.shrink(path)
    assert cached.read_bytes() == before


def test_offsets_behind_the_cut_move_and_addresses_stay() -> None:
    note = Segment(4, 4, 0x9000, 0x9000, 0x9000, 36, 36, 4)
    held = Segment(1, 4, 0x1000, 0x11000, 0x11000, 0x6100, 0x6100, 0x1000)
    later = Segment(1, 6, 0x8000, 0x18000, 0x18000, 0x100, 0x200, 0x1000)
    first, second, last = shrink_torch.split((held, later, note), Cut(0x2000, 0x6000))
    assert (first.offset, first.file_size, first.memory_size) == (0x1000, 0x1000, 0x5000)
    assert (second.offset, second.address, second.file_size) == (0x2000, 0x16000, 0x1100)
    assert (last.offset, last.address) == (0x4000, 0x18000)
    assert first.address + first.memory_size == second.address


def test_no_segment_or_no_spare_header_is_an_error() -> None:
    held = Segment(1, 4, 0, 0, 0, 0x4000, 0x4000, 0x1000)
    with pytest.raises(ValueError, match="no program header to spare"):
        shrink_torch.split((held,), Cut(0x1000, 0x2000))
    with pytest.raises(ValueError, match="no loadable segment"):
        shrink_torch.split((held,), Cut(0x4000, 0x5000))


def test_a_file_that_is_no_library_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torch/lib").mkdir(parents=True)
    (tmp_path / "torch/lib/libtorch_cuda.so").write_bytes(b"short")
    assert shrink_torch.main(tmp_path) == 1
    assert "libtorch_cuda.so" in capsys.readouterr().err
    with pytest.raises(Exception, match="buffer"):
        Elf.read(b"short")
