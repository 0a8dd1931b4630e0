"""Builds the library from the C files of this folder: `python build.py [TARGET]`. Needs gcc, and nothing of ours.

The library carries a digest of what it was built from. One that was built from other sources is not loaded: its structs may
be others.
"""

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Not .so: Python would take it for a module.
TARGET = HERE / "libheadway.so.1"
# No -ffast-math: logits that are not finite must stay so, and sums keep their order.
FLAGS = (
    *("-std=c11", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"),
    *("-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16"),
    *("-mamx-tile", "-mamx-bf16"),
)


def sources() -> list[Path]:
    """The C files, in a fixed order."""
    return sorted(HERE.glob("*.c"))


def digest() -> str:
    """What the library is built from: sources, headers and flags."""
    content = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (*sources(), *sorted(HERE.glob("*.h"))):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()[:16]


def build(target: Path = TARGET) -> None:
    """Compile; an older library is replaced at once, so that a process that has it loaded keeps what it has.

    Raises:
        FileNotFoundError: there is no gcc.
        subprocess.CalledProcessError: it refused; it has said why on stderr.
    """
    unfinished = target.with_suffix(".new")
    command = ["gcc", *FLAGS, f'-DHEADWAY_SOURCES="{digest()}"', *map(str, sources()), "-o", str(unfinished), "-lm"]
    subprocess.run(command, check=True)  # noqa: S603 - our own
    unfinished.replace(target)


def main(arguments: list[str]) -> None:
    """Build where the instructions exist; elsewhere the engine computes with torch and the library is an empty file."""
    target = Path(arguments[0]) if arguments else TARGET
    if platform.machine() == "x86_64":
        build(target)
    else:
        target.touch()


if __name__ == "__main__":
    main(sys.argv[1:])
