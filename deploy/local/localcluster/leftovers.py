"""What of the cluster is on the host right now. Empty after `down`; the same list is the test of it."""

from __future__ import annotations

from pathlib import Path

from . import cgroups, firewall, mounts, network
from .processes import command, marked, started_at
from .record import Host
from .settings import MAX_NODES, Addresses, Paths
from .shell import run

CONTAINER_LOGS = Path("/var/log/containers")
CNI_RESULTS = Path("/var/lib/cni/results")


def log_links(paths: Paths) -> list[Path]:
    """Links that kubelet makes to its pods' logs, always in this folder."""
    if not CONTAINER_LOGS.is_dir():
        return []
    return [p for p in CONTAINER_LOGS.iterdir() if p.is_symlink() and paths.state in p.readlink().parents]


def cni_results() -> list[Path]:
    """Files in which libcni remembers what it did for our pods, always in this folder.

    The loopback's carry no network name of ours, but the same sandbox id.
    """
    ours = sorted(CNI_RESULTS.glob("headway-*")) if CNI_RESULTS.is_dir() else []
    sandboxes = [path.name.split("-")[1] for path in ours]
    return ours + [path for sandbox in sandboxes for path in CNI_RESULTS.glob(f"cni-loopback-{sandbox}-*")]


def container_pids() -> list[int]:
    """Processes in the nodes' cgroups: containers."""
    return [pid for i in range(1, MAX_NODES + 1) for pid in cgroups.pids(i) if started_at(pid) is not None]


def find(paths: Paths, addresses: Addresses, host: Host | None) -> list[str]:
    """A line for each thing of the cluster that is on the host.

    Firewall chains carry no owner: they count as ours only while `host` says that we are here.
    """
    pids = sorted({*marked(paths), *container_pids()})
    found = [f"process {pid}: {command(pid)}" for pid in pids]
    found += [f"mount {point}" for point in mounts.below(paths.state)]
    found += [f"interface {link}" for link in network.links()]
    found += [f"route {line}" for line in _routes(addresses)]
    found += [f"cgroup {folder}" for folder in cgroups.present()]
    found += [f"firewall table {t}" for t in firewall.tables_now() if t == f"ip {firewall.NETPOL_TABLE}"]
    found += [f"link {path}" for path in log_links(paths)]
    found += [f"file {path}" for path in cni_results()]
    if host is not None:
        found += [f"firewall chain {chain}" for chain in firewall.chains_now()]
    return found


def _routes(addresses: Addresses) -> list[str]:
    nets = [str(net) for net in addresses.ranges.values()]
    return [line.strip() for net in nets for line in run(["ip", "route", "show", "root", net]).splitlines()]
