"""Runs the NetworkPolicy enforcer of a node: one process that turns policies into nftables rules each second.

kube-proxy and the bridge CNI plugin enforce no policy. This is a test tool: a rule lands about a
second after its pod has an address.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import netpolrules
from .api import Api
from .errors import ClusterError
from .processes import Daemon, start
from .settings import Addresses, Paths, node_name
from .shell import run

INTERVAL_S = 1.0


def start_enforcer(paths: Paths, index: int) -> None:
    """Starts the node's enforcer. It runs on the host and enters the node's namespace only to write rules."""
    script = Path(__file__).resolve().parent.parent / "cluster.py"
    argv: list[str | Path] = [sys.executable, script, "enforce-policies", str(index), "--state", paths.state]
    start(paths, Daemon(f"netpol{index}", argv, node=index))


def enforce(paths: Paths, addresses: Addresses, index: int) -> None:
    """Keeps the node's rules equal to the policies, until killed."""
    api = Api(paths, addresses)
    netns = paths.netns(index)
    nft = [*(["nsenter", f"--net={netns}"] if netns else []), "nft", "-f", "-"]
    applied = ""
    while True:
        try:
            table = netpolrules.render(_observe(api), node_name(index))
            if table != applied:
                run(nft, stdin=table)
                applied = table
                print(f"applied {table.count(' chain pod_')} pod chains", flush=True)
        except (OSError, ClusterError) as err:
            print(err, flush=True)
        time.sleep(INTERVAL_S)


def _observe(api: Api) -> netpolrules.Observed:
    return netpolrules.Observed.parse(
        policies=api.items("/apis/networking.k8s.io/v1/networkpolicies"),
        pods=api.items("/api/v1/pods"),
        namespaces=api.items("/api/v1/namespaces"),
    )
