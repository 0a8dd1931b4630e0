"""etcd, the API server, the controller manager and the scheduler."""

from __future__ import annotations

from pathlib import Path

from .api import Api
from .errors import ClusterError
from .pki import kubeconfig
from .processes import Daemon, require_alive, start
from .settings import (
    API_PORT,
    CONTROLLER_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    SCHEDULER_PORT,
    Addresses,
    Paths,
)
from .shell import wait_until

API_TIMEOUT_S = 60.0
# Short, so that tests of a lost node take a minute and not six.
EVICTION_S = 30
NODE_GRACE = "20s"


def etcd(paths: Paths, binaries: Path) -> Daemon:
    """The store. Without fsync: a killed process loses nothing, only a power cut of the real machine would."""
    client, peer = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PEER_PORT}"
    flags = {
        "name": "headway",
        "data-dir": paths.state / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"headway={peer}",
        "log-level": "warn",
    }
    return Daemon("etcd", [binaries / "etcd", "--unsafe-no-fsync", *_flags(flags)])


def api_server(paths: Paths, addresses: Addresses, binaries: Path) -> Daemon:
    """The API server, on the bridge address only."""
    pki, ip = paths.pki, addresses.node_ip(1)
    flags = {
        "etcd-servers": f"http://127.0.0.1:{ETCD_PORT}",
        "bind-address": ip,
        "advertise-address": ip,
        "secure-port": API_PORT,
        "tls-cert-file": pki / "apiserver.crt",
        "tls-private-key-file": pki / "apiserver.key",
        "client-ca-file": pki / "ca.crt",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "service-account-key-file": pki / "sa.pub",
        "service-account-signing-key-file": pki / "sa.key",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-cluster-ip-range": addresses.services,
        "allow-privileged": "true",
        "profiling": "false",
        "kubelet-client-certificate": pki / "kubelet-client.crt",
        "kubelet-client-key": pki / "kubelet-client.key",
        "kubelet-certificate-authority": pki / "ca.crt",
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": pki / "front-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": pki / "front.crt",
        "proxy-client-key-file": pki / "front.key",
        "default-not-ready-toleration-seconds": EVICTION_S,
        "default-unreachable-toleration-seconds": EVICTION_S,
    }
    return Daemon("kube-apiserver", [binaries / "kube-apiserver", *_flags(flags)])


def controllers(paths: Paths, binaries: Path) -> Daemon:
    """The controller manager."""
    pki = paths.pki
    flags = {
        **_identity(paths, "controllers"),
        "secure-port": CONTROLLER_PORT,
        "use-service-account-credentials": "true",
        "root-ca-file": pki / "ca.crt",
        "service-account-private-key-file": pki / "sa.key",
        "cluster-signing-cert-file": pki / "ca.crt",
        "cluster-signing-key-file": pki / "ca.key",
        "node-monitor-grace-period": NODE_GRACE,
    }
    return Daemon("kube-controller-manager", [binaries / "kube-controller-manager", *_flags(flags)])


def scheduler(paths: Paths, binaries: Path) -> Daemon:
    """The scheduler."""
    flags = {**_identity(paths, "scheduler"), "secure-port": SCHEDULER_PORT}
    return Daemon("kube-scheduler", [binaries / "kube-scheduler", *_flags(flags)])


def start_store_and_api(paths: Paths, addresses: Addresses, binaries: Path) -> None:
    """Starts etcd and the API server without waiting for them."""
    start(paths, etcd(paths, binaries))
    start(paths, api_server(paths, addresses, binaries))


def start_rest(paths: Paths, binaries: Path, api: Api) -> None:
    """Waits for the API server, then starts what exits when it cannot reach it."""

    def settled() -> bool:
        require_alive(paths, "etcd", "kube-apiserver")
        return api.ready()

    if not wait_until(settled, API_TIMEOUT_S):
        raise ClusterError(
            f"the API server was not ready after {API_TIMEOUT_S:.0f} s; see {paths.logs}/kube-apiserver.log"
        )
    start(paths, controllers(paths, binaries))
    start(paths, scheduler(paths, binaries))


def _identity(paths: Paths, name: str) -> dict[str, object]:
    config = kubeconfig(paths, name)
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": "127.0.0.1",
        "leader-elect": "false",
    }


def _flags(values: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
