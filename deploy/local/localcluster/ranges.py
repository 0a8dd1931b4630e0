"""Which addresses and ports of this machine are taken, and by whom."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from .errors import ClusterError
from .settings import BRIDGE_PORTS, LOOPBACK_PORTS, Addresses
from .shell import run

_ANYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Taken:
    """A range in use and what uses it."""

    net: IPv4Network
    owner: str


def parse_taken(addresses_json: str, routes_json: str) -> list[Taken]:
    """Reads `ip -j addr` and `ip -j route show table all`; the default route takes nothing."""
    taken = [
        Taken(IPv4Network(f"{a['local']}/{a['prefixlen']}", strict=False), f"the address of {link['ifname']}")
        for link in json.loads(addresses_json)
        for a in link.get("addr_info", [])
        if a.get("family") == "inet"
    ]
    for route in json.loads(routes_json):
        if route.get("dst", "default") == "default":
            continue
        try:
            net = IPv4Network(route["dst"], strict=False)
        except (AddressValueError, NetmaskValueError, ValueError):
            continue  # IPv6
        if net != _ANYWHERE:
            taken.append(Taken(net, f"the route {route['dst']} dev {route.get('dev', '?')}"))
    return taken


def conflicts(addresses: Addresses, taken: Iterable[Taken]) -> list[str]:
    """A sentence for each range of ours that overlaps one in use."""
    return [
        f"{variable}={net} overlaps {other.net}, {other.owner}; set {variable} to a free range"
        for variable, net in addresses.ranges.items()
        for other in taken
        if net.overlaps(other.net)
    ]


def require_free(addresses: Addresses) -> None:
    """Raises when an address range or a port of the cluster is in use by someone else."""
    taken = parse_taken(run(["ip", "-j", "addr"]), run(["ip", "-j", "route", "show", "table", "all"]))
    problems = list(dict.fromkeys(conflicts(addresses, taken)))
    problems += [f"port {port} on 127.0.0.1 is in use" for port in LOOPBACK_PORTS if not _bindable("127.0.0.1", port)]
    # The bridge does not exist yet; only a program on every address (0.0.0.0) can be in the way.
    problems += [
        f"port {port} is in use on every address (0.0.0.0), so also on the cluster's bridge"
        for port in BRIDGE_PORTS
        if not _bindable("127.213.0.1", port)
    ]
    if problems:
        raise ClusterError("the cluster cannot start beside what runs on this machine:\n  " + "\n  ".join(problems))


def _bindable(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((address, port))
        except OSError:
            return False
    return True
