"""Builds Headway's images: `python3 deploy/images/build.py --help`."""

import sys
from pathlib import Path

# The local cluster's package is next door: its registry folder is where the images go.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))

from imagebuild.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
