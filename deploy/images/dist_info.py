#!/usr/bin/env python3
"""Write the metadata of our own distribution beside its code, so that a container can tell its version.

The images copy packages instead of installing a wheel: no build back end is needed and a change of code is one small
layer. `importlib.metadata` looks for a `NAME-VERSION.dist-info` folder next to them.

Usage: dist_info.py PYPROJECT FOLDER
"""

import sys
import tomllib
from pathlib import Path


def write(pyproject: Path, folder: Path) -> Path:
    """Make the folder; returns it."""
    project = tomllib.loads(pyproject.read_text())["project"]
    target = folder / f"{project['name']}-{project['version']}.dist-info"
    target.mkdir(parents=True, exist_ok=True)
    fields = {
        "Metadata-Version": "2.4",
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "License-Expression": project["license"],
    }
    (target / "METADATA").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
