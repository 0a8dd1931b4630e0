#!/usr/bin/env python3
"""`make test-cluster`: the cluster, the images and the chart as in the demo, then the end-to-end tests, then nothing left.

Arguments go to pytest. While another run or a demo has the cluster it waits (`claim.py`). With KEEP_CLUSTER=1 the cluster stays up afterwards, for looking around and for a quick next run.
The tests that stop and kill the cluster itself run last, without it.
"""

import os
import subprocess
import sys
import time

import steps
from claim import claimed
from steps import say


def run_pytest(*arguments: str) -> int:
    """Run a part of the tests with the cluster's environment; returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "tests/cluster", *arguments, *sys.argv[1:]]
    return subprocess.run(command, cwd=steps.ROOT, env=steps.environment(), check=False).returncode


def main() -> int:
    """Run everything, alone on the cluster; returns the exit code."""
    provider = os.environ.get("CLUSTER", "own")
    with claimed(provider, "make test-cluster"):
        return run(provider)


def run(provider: str) -> int:
    """Run everything; returns the exit code."""
    began_s = time.monotonic()
    cluster = steps.start_cluster(provider, nodes=1, netpol=True)
    try:
        images = steps.build_images(cluster)
        steps.install_chart(images)
        say(f"cluster, images and chart are there after {time.monotonic() - began_s:.0f} s")
        code = run_pytest("-m", "cluster", "-p", "no:randomly")
    except steps.StepError as error:
        print(f"testbed: {error}", file=sys.stderr)
        code = 1
    finally:
        if os.environ.get("KEEP_CLUSTER") != "1":
            steps.stop_cluster(cluster)
    if code == 0 and cluster.provider == "own" and os.environ.get("KEEP_CLUSTER") != "1":
        code = run_pytest("-m", "cluster_lifecycle", "-p", "no:randomly")
    say(f"end-to-end tests took {time.monotonic() - began_s:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
