"""What an idle operator costs: writes a minute, memory and CPU, with 100 LLMDeployments whose engines report no traffic.

Runs a real operator process against a real API server (etcd and kube-apiserver of the local cluster). There is no kubelet:
every fleet's pod is reported ready at a loopback address of its own, where a fake control port answers GetStats. Prints
one JSON object. Usage: `python benchmarks/bench_operator_idle.py [--fleets 100] [--seconds 120]`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

import apiserver  # noqa: E402  the tests' support is no package
import headway_pytest  # noqa: E402
import operators  # noqa: E402
from operators import Fleet, Operator, eventually  # noqa: E402

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") / 1024
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READS = "headway_operator_api_request_seconds_count"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    with apiserver.running() as server, operators.engines() as farm, tempfile.TemporaryDirectory() as folder:
        headway_pytest.install_crd(server)
        namespace = headway_pytest.make_namespace(server)
        env = {"HEADWAY_ENGINE_CONTROL_PORT": str(farm.port), "HEADWAY_LOG_LEVEL": "WARNING"}
        with operators.operator(server, Path(folder), **env) as first:
            eventually(first.leads, 30.0)
            fleets = [Fleet(server, namespace, f"fleet-{number}") for number in range(options.fleets)]
            for fleet in fleets:
                fleet.create(replicas=1)
            for fleet in fleets:
                eventually(fleet.pods, 60.0)
                fleet.make_ready(fleet.pods()[0]["metadata"]["name"], farm.start()[0])
            for fleet in fleets:
                eventually(partial(is_ready, fleet), 120.0)
            after_creation_mib = rss_mib(first)
            first.terminate()
        # A second process shows what a start costs, and an idle life without the creation's memory.
        began = time.monotonic()
        with operators.operator(server, Path(folder), "op-2", **env) as second:
            eventually(lambda: second.leads() and second.metric("headway_operator_fleets") > 0, 60.0)
            first_pass_s = time.monotonic() - began
            # Rendering the metrics takes time from the operator: ask rarely.
            eventually(lambda: passes(second) >= options.fleets, 60.0, every_s=0.5)
            all_passed_s = time.monotonic() - began
            print(
                json.dumps(
                    measure(second, options)
                    | {
                        "start_to_first_fleet_s": round(first_pass_s, 2),
                        "start_to_all_reconciled_s": round(all_passed_s, 2),
                        "rss_mib_after_creating_all": after_creation_mib,
                    },
                    indent=2,
                )
            )


def measure(process: Operator, options: argparse.Namespace) -> dict[str, float]:
    """Count and weigh an idle operator for a while; the first minute settles statuses and is left out."""
    time.sleep(60.0)
    writes, reads, passed, cpu = process.writes(), process.metric(READS, verb="get"), passes(process), cpu_s(process)
    time.sleep(options.seconds)
    minutes = options.seconds / 60.0
    return {
        "fleets": options.fleets,
        "seconds": options.seconds,
        "writes_per_minute": round((process.writes() - writes) / minutes, 2),
        "gets_per_second": round((process.metric(READS, verb="get") - reads) / options.seconds, 1),
        "passes_per_minute": round((passes(process) - passed) / minutes, 1),
        "cpu_percent_of_a_core": round(100.0 * (cpu_s(process) - cpu) / options.seconds, 1),
        "rss_mib": rss_mib(process),
        "watch_restarts": process.metric("headway_operator_watch_restarts_total"),
    }


def is_ready(fleet: Fleet) -> bool:
    """Does the status say so?"""
    return bool(fleet.condition("Ready")["status"] == "True")


def passes(process: Operator) -> float:
    """Passes so far."""
    return process.metric("headway_operator_reconcile_seconds_count")


def rss_mib(process: Operator) -> float:
    """Resident memory of the operator."""
    pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
    return round(pages * PAGE_KIB / 1024, 1)


def cpu_s(process: Operator) -> float:
    """CPU time of the operator so far."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


if __name__ == "__main__":
    main()
