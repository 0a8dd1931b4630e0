"""The shape of the repository: what a reviewer would otherwise have to watch for."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FILE = 400
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
SOURCES = ("operator", "engine", "deploy", "tests", "benchmarks")


def tracked_python() -> list[Path]:
    """Python files under version control, or new and not ignored."""
    command = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *(f"{part}/**/*.py" for part in SOURCES),
    ]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    return [ROOT / line for line in listed if (ROOT / line).is_file()]


@pytest.mark.parametrize("folder", ["operator", "engine"])
def test_the_two_folders_are_not_packages(folder: str) -> None:
    """With an __init__.py, `operator/` would hide the standard library's module of that name."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [path for path in tracked_python() if not path.name.endswith(GENERATED)]
    assert len(files) > 50
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


PACKAGES = sorted(path.parent for folder in ("operator", "engine") for path in (ROOT / folder).glob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_tells_type_checkers_that_it_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


def test_every_module_of_ours_says_what_it_is() -> None:
    files = [path for path in tracked_python() if {"operator", "engine"} & set(path.relative_to(ROOT).parts[:1])]
    silent = [
        path for path in files if not path.name.endswith(GENERATED) and not path.read_text().lstrip().startswith('"""')
    ]
    assert [str(path.relative_to(ROOT)) for path in silent] == []
