"""Compiles a copy of the planner with mypyc, which makes the simulator 2 to 3 times as fast and its results no different.

    python benchmarks/compiled.py FOLDER      then put FOLDER first on PYTHONPATH

mypyc comes with mypy; it needs a C compiler and Python's headers. Nothing in the repository or the environment is changed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

_OPERATOR = Path(__file__).parents[1] / "operator"
_PARTS = ("headway_planner", "headway_cli")
# Only what the simulator spends its time in; the rest is imported as it is.
_SETUP = """
from pathlib import Path
from mypyc.build import mypycify
from setuptools import setup
names = "capacity control coordinator deferred feedforward forecast identify model non_negative scale tune staffing steps sim/* rivals/*".split()
files = [str(file) for name in names for file in sorted(Path("headway_planner").glob(name + ".py"))]
setup(name="simulator", ext_modules=mypycify([one for one in files if not one.endswith("__init__.py")], opt_level="3"))
"""


def build(folder: Path) -> bool:
    """Fill the folder. False, with a word to standard error: it cannot be compiled here."""
    for part in _PARTS:
        shutil.copytree(_OPERATOR / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (folder / "setup.py").write_text(_SETUP, encoding="utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        print("the simulator runs uncompiled:", done.stderr.strip()[-300:], file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(0 if build(Path(sys.argv[1])) else 1)
