"""Compiles a copy of the planner with mypyc, which makes the simulator 2 to 3 times as fast and its results no different.

    export PYTHONPATH=$(python benchmarks/compiled.py)

The copy is made once for the same sources, interpreter and mypy, and kept in the user's caches ($XDG_CACHE_HOME/headway or
~/.cache/headway), the last few of them. mypyc comes with mypy; it needs a C compiler and Python's headers. Nothing in the
repository or the environment is changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

_OPERATOR = Path(__file__).parents[1] / "operator"
_PARTS = ("headway_planner", "headway_cli")
_KEPT = 4  # copies: some branches' worth
# Only what the simulator spends its time in; the rest is imported as it is.
_SETUP = """
from pathlib import Path
from mypyc.build import mypycify
from setuptools import setup
names = "budget capacity control coordinator deferred feedforward forecast identify model non_negative recent scale tune staffing steps sim/* rivals/*".split()
files = [str(file) for name in names for file in sorted(Path("headway_planner").glob(name + ".py"))]
setup(name="simulator", ext_modules=mypycify([one for one in files if not one.endswith("__init__.py")], opt_level="3", debug_level="0"))
"""


def cached() -> Path | None:
    """The folder of the compiled copy, for PYTHONPATH; None, with a word to standard error: it cannot be compiled here."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headway"
    folder = home / f"simulator-{_digest()}"
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as making:
            made = Path(making) / "simulator"
            if not build(made):
                return None
            if not folder.is_dir():  # nobody else was faster
                made.rename(folder)
    folder.touch()
    for old in sorted(home.glob("simulator-*"), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old)
    return folder


def bench(flags: Sequence[str], lines: IO[str]) -> None:
    """`headway simulate bench --json` of the copy, or of the sources where there is none, into a file.

    Raises:
        subprocess.CalledProcessError: it failed, and said why.
    """
    environment = os.environ | {"PYTHONPATH": str(cached() or _OPERATOR)}
    command = [sys.executable, "-m", "headway_cli.main", "simulate", "bench", *flags, "--json"]
    subprocess.run(command, env=environment, stdout=lines, check=True)  # noqa: S603


def _digest() -> str:
    """Of what a copy is made from, and by."""
    found = hashlib.sha256(f"{sys.implementation.cache_tag} {version('mypy')} {_SETUP}".encode())
    for part in _PARTS:
        for file in sorted(one for one in (_OPERATOR / part).rglob("*") if one.suffix in (".py", ".csv")):
            found.update(str(file.relative_to(_OPERATOR)).encode() + file.read_bytes())
    return found.hexdigest()[:16]


def build(folder: Path) -> bool:
    """Fill the folder. False, with a word to standard error: it cannot be compiled here."""
    for part in _PARTS:
        shutil.copytree(_OPERATOR / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (folder / "setup.py").write_text(_SETUP, encoding="utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    shutil.rmtree(folder / "build", ignore_errors=True)
    if done.returncode != 0:
        print("the simulator runs uncompiled:", done.stderr.strip()[-300:], file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    found = cached()
    print(found or _OPERATOR)
