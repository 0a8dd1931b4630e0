"""Headway's local Kubernetes: `python3 deploy/local/cluster.py --help`."""

import sys

from localcluster.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
