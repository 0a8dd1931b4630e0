"""The engine's C library for tests, built if `make venv` has not built it from these sources."""

import shutil

import pytest

from headway_engine.native import build, library


def require(dtype: str) -> None:
    """Skip where the CPU or the compiler is missing; a library that could be built and does not work fails.

    What lies there is not loaded to learn whether it is the right one: a process keeps what it has loaded under that name.
    """
    missing = library.NEEDS[dtype] - library.cpu_flags()
    if missing:
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    target = build.TARGET
    if not target.exists() or build.digest().encode() not in target.read_bytes():
        if shutil.which("gcc") is None:
            pytest.skip("no gcc, and no library")
        build.build()
        library.load.cache_clear()
    assert library.problem(dtype) is None
