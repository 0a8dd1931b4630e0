"""Taking the cluster off the host: a power cut for the pods, then what they and we left, in reverse order.

Nothing is asked of kubelet or containerd, so it works the same whichever of them was killed before,
and when `up` was interrupted half-way. Containers get no grace period.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from . import cgroups, firewall, hostdirs, leftovers, mounts, network, node, record, sysctls
from .errors import ClusterError
from .processes import kill_all, marked, pid_of, stop
from .record import Host
from .settings import MAX_NODES, Addresses, Paths
from .shell import wait_until

GRACE_S = 4.0
_SHIM_SOCKETS = Path("/run/containerd/s")


def down(paths: Paths, addresses: Addresses, *, purge: bool) -> list[str]:
    """Stops the cluster and clears the host; with `purge` its state too. Returns what could not be removed."""
    try:
        host = record.load_host(paths.state)
        problems = []
    except ClusterError as err:
        # Without the record the firewall chains' owner is unknown: they stay, and the user hears of it.
        host, problems = None, [str(err)] if not purge else []
    for index in range(MAX_NODES, 0, -1):
        node.power_off(paths, index)
    store = None if purge else pid_of(paths, "etcd")
    kill_all([pid for pid in marked(paths) if pid != store])
    stop(paths, "etcd", GRACE_S)  # the only one with something to lose
    kill_all(marked(paths))
    clear_runtime(paths)
    network.remove(paths, addresses)
    if host is not None:
        firewall.remove_own(host.nft_tables)
        problems += sysctls.restore(host.sysctls)
    for path in (*leftovers.log_links(paths), *leftovers.cni_results()):
        path.unlink(missing_ok=True)
    if host is not None:
        hostdirs.remove_made(host.absent)
    # The kernel takes cgroups and namespaces away shortly after their last process.
    wait_until(lambda: _cgroups_gone() and not leftovers.find(paths, addresses, host), 3.0)
    problems += leftovers.find(paths, addresses, host)
    if not problems:
        record.forget_host(paths.state)
    if purge and not mounts.below(paths.state):
        shutil.rmtree(paths.state, ignore_errors=True)
        if paths.state.exists():
            problems.append(f"folder {paths.state}")
    return problems


def clear_runtime(paths: Paths) -> None:
    """Removes what does not outlive a restart of a machine: mounts, container bundles, leases of addresses."""
    for index in range(1, MAX_NODES + 1):
        _remove_shim_sockets(paths.node(index) / "run")
    mounts.remove_below(paths.state)
    if mounts.below(paths.state):
        return  # deleting through a mount could reach a user's files
    for index in range(1, MAX_NODES + 1):
        for name in ("run", "runc", "ipam"):
            shutil.rmtree(paths.node(index) / name, ignore_errors=True)
        for socket in paths.node(index).glob("containerd.sock*"):
            socket.unlink(missing_ok=True)
    shutil.rmtree(paths.pids, ignore_errors=True)


def reset_after_reboot(paths: Paths, host: Host) -> bool:
    """Forgets what the last start of the machine took with it; True when there was such a start."""
    if host.boot_id == record.boot_id():
        return False
    clear_runtime(paths)
    record.forget_host(paths.state)
    return True


def _cgroups_gone() -> bool:
    for index in range(1, MAX_NODES + 1):
        cgroups.remove(index)
    return not cgroups.present()


def _remove_shim_sockets(run: Path) -> None:
    """A killed shim leaves its socket in a folder that every containerd on the host shares."""
    for bootstrap in run.glob("io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        with suppress(OSError, ValueError, KeyError):
            socket = Path(json.loads(bootstrap.read_text())["address"].removeprefix("unix://"))
            if socket.parent == _SHIM_SOCKETS:
                socket.unlink(missing_ok=True)
