"""A node: containerd, kubelet and kube-proxy, on the host (node 1) or in a network namespace."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from . import cgroups, network, nodeconfig, pki
from .api import Api, ApiError, Json
from .errors import ClusterError
from .processes import Daemon, kill_all, marked, pid_of, require_alive, start
from .settings import (
    PROXY_HEALTH_PORT,
    PROXY_METRICS_PORT,
    REGISTRY_HOST,
    Addresses,
    Paths,
    node_name,
)
from .shell import run, wait_until

READY_TIMEOUT_S = 60.0


def prepare(paths: Paths, addresses: Addresses, index: int) -> None:
    """Network, cgroups, certificate and configuration of the node; needs no API server."""
    folder = paths.node(index)
    for sub in ("cni", "kubelet"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    network.make_namespace(paths, addresses, index)
    cgroups.make(index)
    certificate = pki.node_certificate(addresses, index)
    pki.ensure_certificate(paths.pki, certificate)
    pki.ensure_kubeconfig(paths, addresses, certificate.name, folder / "kubelet.kubeconfig")
    (folder / "cni" / "10-headway.conflist").write_text(nodeconfig.cni(paths, addresses, index))
    (folder / "kubelet.yaml").write_text(nodeconfig.kubelet(paths, addresses, index))
    hosts = paths.certs_d / REGISTRY_HOST / "hosts.toml"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(nodeconfig.registry_hosts(addresses))


def start_containerd(paths: Paths, binaries: Path, index: int) -> None:
    """Starts the container runtime; kubelet retries until its socket is there."""
    config = paths.node(index) / "containerd.toml"
    config.write_text(nodeconfig.containerd(paths, binaries, index))
    argv: list[str | Path] = [binaries / "containerd", "-c", config]
    # It finds its shim on the PATH.
    start(paths, Daemon(f"containerd{index}", argv, node=index, netns=paths.netns(index), path=binaries))


def start_agents(paths: Paths, addresses: Addresses, binaries: Path, index: int) -> datetime | None:
    """Starts kubelet and kube-proxy; returns since when kubelet's word counts (None: it ran before)."""
    name, netns, folder = node_name(index), paths.netns(index), paths.node(index)
    if not wait_until(lambda: _answers(paths, binaries, index), READY_TIMEOUT_S):
        raise ClusterError(f"containerd of {name} does not answer; see {paths.logs}/containerd{index}.log")
    kubelet: list[str | Path] = [
        binaries / "kubelet",
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={folder / 'kubelet.kubeconfig'}",
        f"--hostname-override={name}",
        f"--node-ip={addresses.node_ip(index)}",
        f"--root-dir={folder / 'kubelet'}",
    ]
    proxy: list[str | Path] = [
        binaries / "kube-proxy",
        f"--kubeconfig={pki.kubeconfig(paths, 'proxy')}",
        f"--hostname-override={name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={addresses.pods}",
        f"--nodeport-addresses={addresses.node_ip(index)}/32",
        f"--healthz-bind-address=127.0.0.1:{PROXY_HEALTH_PORT}",
        f"--metrics-bind-address=127.0.0.1:{PROXY_METRICS_PORT}",
        # Zero leaves the host's own connection tracking settings alone.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--iptables-localhost-nodeports=false",
    ]
    fresh = pid_of(paths, f"kubelet{index}") is None
    # Heartbeats carry whole seconds.
    since = datetime.now(UTC).replace(microsecond=0) if fresh else None
    start(paths, Daemon(f"kubelet{index}", kubelet, node=index, netns=netns, path=binaries))
    start(paths, Daemon(f"kube-proxy{index}", proxy, node=index, netns=netns))
    return since


def wait_ready(paths: Paths, api: Api, index: int, since: datetime | None) -> None:
    """Waits until the node is Ready, and says so early when one of its processes has ended.

    After a restart the API server still holds the Ready of the last run: only a heartbeat `since` the
    new kubelet counts.
    """

    def settled() -> bool:
        require_alive(paths, f"containerd{index}", f"kubelet{index}", f"kube-proxy{index}")
        try:
            return is_ready(api.call("GET", f"/api/v1/nodes/{node_name(index)}"), since)
        except (OSError, ApiError):
            return False

    if not wait_until(settled, READY_TIMEOUT_S):
        log = paths.logs / f"kubelet{index}.log"
        raise ClusterError(f"{node_name(index)} was not Ready after {READY_TIMEOUT_S:.0f} s; see {log}")


def is_ready(node: Json, since: datetime | None = None) -> bool:
    """Whether the node's Ready condition is True, with a heartbeat at or after `since`."""
    return any(
        c["type"] == "Ready"
        and c["status"] == "True"
        and (since is None or datetime.fromisoformat(c["lastHeartbeatTime"]) >= since)
        for c in node.get("status", {}).get("conditions", [])
    )


def power_off(paths: Paths, index: int) -> list[int]:
    """Kills everything of a node at once, as a power cut would; returns what would not die."""
    daemons = kill_all(marked(paths, node=index))
    # A dead shim leaves its containers running: they are known by their cgroup. New ones cannot appear
    # after containerd and its shims are gone.
    return daemons + kill_all(cgroups.pids(index))


def retire(paths: Paths, api: Api, index: int) -> None:
    """Takes a node that is no longer wanted out of the cluster; `down` removes what its namespace still holds."""
    power_off(paths, index)
    for name in (f"containerd{index}", f"kubelet{index}", f"kube-proxy{index}", f"netpol{index}"):
        (paths.pids / name).unlink(missing_ok=True)
    with suppress(ApiError):  # 404: it never was
        api.call("DELETE", f"/api/v1/nodes/{node_name(index)}")


def _answers(paths: Paths, binaries: Path, index: int) -> bool:
    require_alive(paths, f"containerd{index}")
    return paths.socket(index).exists() and "Server" in run(
        [binaries / "ctr", "-a", paths.socket(index), "version"], check=False
    )
