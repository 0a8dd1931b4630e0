"""The node network: a bridge on the host, and node 2 as a network namespace behind a veth pair.

Node 1 is the host and owns the bridge address. Each node's pods sit behind a bridge that the CNI
plugin makes; a route per node leads to them. The namespace is mounted below the state folder and
not in /run/netns: no other tool's namespaces share its mount.
"""

from __future__ import annotations

import os
from pathlib import Path

from .mounts import mounted_at
from .settings import BRIDGE, MAX_NODES, POD_BRIDGE, Addresses, Paths
from .shell import run
from .sysctls import NEEDED


def host_veth(index: int) -> str:
    """The host's end of the node's cable."""
    return f"headway-v{index}"


def has_link(name: str) -> bool:
    """Whether the host has an interface of this name."""
    return Path("/sys/class/net", name).exists()


def make_bridge(addresses: Addresses) -> None:
    """Makes the node network on the host."""
    if not has_link(BRIDGE):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    prefix = addresses.nodes.prefixlen
    run(["ip", "addr", "replace", f"{addresses.node_ip(1)}/{prefix}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def make_namespace(paths: Paths, addresses: Addresses, index: int) -> None:
    """Makes the namespace of node `index` > 1 with its cable, address and routes."""
    netns = paths.netns(index)
    if netns is None:
        return
    if not mounted_at(netns):
        netns.parent.mkdir(parents=True, exist_ok=True)
        netns.touch()
        run(["unshare", f"--net={netns}", "true"])
    inside = ["nsenter", f"--net={netns}"]
    if not has_link(host_veth(index)):
        # Made inside, with the other end pushed out to the namespace of this very process: a
        # namespace without a name in /run/netns can only be named by a process that is in it.
        peer = ["peer", "name", host_veth(index), "netns", str(os.getpid())]
        run([*inside, "ip", "link", "add", "eth0", "type", "veth", *peer])
    run([*inside, "ip", "link", "set", "lo", "up"])
    run(["ip", "link", "set", host_veth(index), "master", BRIDGE, "up"])
    run([*inside, "ip", "addr", "replace", f"{addresses.node_ip(index)}/{addresses.nodes.prefixlen}", "dev", "eth0"])
    run([*inside, "ip", "link", "set", "eth0", "up"])
    run([*inside, "ip", "route", "replace", "default", "via", str(addresses.node_ip(1))])
    for name, value in NEEDED.items():
        run([*inside, "sysctl", "-qw", f"{name.replace('/', '.')}={value}"])
    run(["ip", "route", "replace", str(addresses.pod_cidr(index)), "via", str(addresses.node_ip(index))])


def remove(paths: Paths, addresses: Addresses) -> None:
    """Removes interfaces and routes; the namespaces' mounts go with the other mounts of the state folder."""
    for index in range(2, MAX_NODES + 1):
        run(["ip", "route", "del", str(addresses.pod_cidr(index)), "via", str(addresses.node_ip(index))], check=False)
    for link in links():
        run(["ip", "link", "del", link], check=False)
    for index in range(2, MAX_NODES + 1):
        netns = paths.netns(index)
        if netns is not None and not mounted_at(netns):
            netns.unlink(missing_ok=True)


def links() -> list[str]:
    """The cluster's interfaces on the host: pods' cables first, since a bridge does not take them along."""
    names = [d.name for d in Path("/sys/class/net").iterdir()]
    cables = [n for n in names if _master(n) in (BRIDGE, POD_BRIDGE)]
    return list(dict.fromkeys(cables + [n for n in names if n.startswith("headway")]))


def _master(link: str) -> str:
    path = Path("/sys/class/net", link, "master")
    return path.resolve().name if path.is_symlink() else ""
