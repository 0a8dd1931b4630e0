#!/usr/bin/env python3
"""Take what no running container needs out of an installation, and compile the rest.

Files in an image carry no time stamps worth comparing, so the bytecode is made with unchecked hashes: Python takes it
as it is, and the engine starts seconds earlier. Modules of model families that nobody serves are left without bytecode;
they still import.

Usage: slim.py [--cpu] SITE_PACKAGES   (--cpu: also the profiling parts of the CUDA runtime)
"""

import compileall
import py_compile
import re
import shutil
import sys
from pathlib import Path

# Folders of tests, headers and build files. torch/testing and numpy/testing stay: their packages import them.
_FOLDERS = (
    "*/tests", "*/*/tests", "*/*/*/tests",
    "torch/include", "torch/test", "torch/share/cmake",
    "caffe2", "pip", "setuptools/tests",
)  # fmt: skip
_FILES = ("**/*.pyi", "**/*.a", "**/*.pxd", "**/*.pyx", "torch/bin/protoc*")
# CUPTI loads these only when a GPU is profiled.
_CPU_FILES = (
    "nvidia/*/lib/libnvperf_*",
    "nvidia/*/lib/libcheckpoint*",
    "nvidia/*/lib/libpcsamplingutil*",
    "nvidia/**/*.h*",
)
_WITHOUT_BYTECODE = re.compile(r"transformers/models/(?!auto/|llama/|qwen|smollm|gpt2/|__init__)")


def slim(site: Path, *, cpu: bool) -> None:
    """Remove what is never loaded, then compile."""
    for pattern in _FOLDERS:
        for folder in site.glob(pattern):
            shutil.rmtree(folder)
    for pattern in _FILES + (_CPU_FILES if cpu else ()):
        for file in site.glob(pattern):
            file.unlink()
    compileall.compile_dir(
        site,
        quiet=2,
        rx=_WITHOUT_BYTECODE,
        workers=0,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    folders = [word for word in sys.argv[1:] if not word.startswith("-")]
    if len(folders) != 1 or not set(options) <= {"--cpu"}:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    slim(Path(folders[0]), cpu="--cpu" in options)
