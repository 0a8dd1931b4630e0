"""Where the cluster lives on this machine: addresses, ports and folders.

Addresses may be moved through the environment (a laptop's VPN may own the defaults); everything
else follows from them. Nothing listens outside the cluster's own bridge and the loopback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from .errors import ClusterError

BRIDGE = "headway0"  # the node network
POD_BRIDGE = "headway-pods"  # made by the CNI bridge plugin, one per node
REGISTRY_HOST = "registry.headway.local"
MAX_NODES = 2
# A UNIX socket path holds 107 bytes; the longest below the state folder is containerd's ttrpc socket.
SOCKET_PATH_LIMIT = 107

# On the bridge address of node 1.
API_PORT, KUBELET_PORT, DNS_PORT, REGISTRY_PORT = 6443, 10250, 53, 5000
# On the loopback. Not the upstream defaults, so that another Kubernetes beside this one keeps its ports.
ETCD_PORT, ETCD_PEER_PORT = 21379, 21380
CONTROLLER_PORT, SCHEDULER_PORT = 21257, 21259
KUBELET_HEALTH_PORT, PROXY_HEALTH_PORT, PROXY_METRICS_PORT = 21248, 21256, 21249
DNS_READY_PORT = 21181
BRIDGE_PORTS = (API_PORT, KUBELET_PORT, DNS_PORT, REGISTRY_PORT)
LOOPBACK_PORTS = (
    ETCD_PORT,
    ETCD_PEER_PORT,
    CONTROLLER_PORT,
    SCHEDULER_PORT,
    KUBELET_HEALTH_PORT,
    PROXY_HEALTH_PORT,
    PROXY_METRICS_PORT,
    DNS_READY_PORT,
)


def node_name(index: int) -> str:
    """Name of node `index` (1-based) in Kubernetes, and of its cgroup root and network namespace."""
    return f"headway-{index}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The three ranges of the cluster; each must be unused on this machine."""

    nodes: IPv4Network
    pods: IPv4Network
    services: IPv4Network

    def node_ip(self, index: int) -> IPv4Address:
        """Address of node `index`; node 1 owns the bridge."""
        return self.nodes[index]

    def pod_cidr(self, index: int) -> IPv4Network:
        """The /24 of the pods on node `index`."""
        return IPv4Network((int(self.pods.network_address) + (index << 8), 24))

    @property
    def fake_pods(self) -> IPv4Network:
        """The upper half of the pod range: addresses that kwok shows for pods that do not exist."""
        return list(self.pods.subnets(prefixlen_diff=1))[1]

    @property
    def api_service(self) -> IPv4Address:
        """The `kubernetes` Service: by convention the first address of the range."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        """The `kube-dns` Service: by convention the tenth address of the range."""
        return self.services[10]

    @property
    def ranges(self) -> dict[str, IPv4Network]:
        """Every range by the environment variable that moves it."""
        return {"HEADWAY_NODE_NET": self.nodes, "HEADWAY_POD_NET": self.pods, "HEADWAY_SERVICE_NET": self.services}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Addresses:
        """Reads the ranges; the prefix lengths bound what the rest of the package assumes."""
        made = cls(
            nodes=_network(env, "HEADWAY_NODE_NET", "10.213.0.0/24", longest=28),
            pods=_network(env, "HEADWAY_POD_NET", "10.214.0.0/16", longest=20),
            services=_network(env, "HEADWAY_SERVICE_NET", "10.215.0.0/16", longest=24),
        )
        names = list(made.ranges.items())
        for i, (name, net) in enumerate(names):
            for other, taken in names[i + 1 :]:
                if net.overlaps(taken):
                    raise ClusterError(f"{name}={net} overlaps {other}={taken}; give each a range of its own")
        return made


def _network(env: Mapping[str, str], name: str, default: str, longest: int) -> IPv4Network:
    text = env.get(name) or default
    try:
        net = IPv4Network(text)
    except ValueError as err:
        raise ClusterError(f"{name}={text} is not an IPv4 range: {err}") from err
    if not 8 <= net.prefixlen <= longest:
        raise ClusterError(f"{name}={text}: the prefix length must be between /8 and /{longest}")
    return net


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders of the cluster. The cache outlives `down --purge`; the state does not."""

    cache: Path
    state: Path

    @property
    def registry(self) -> Path:
        """Images as an OCI folder: `blobs/sha256/*` and `manifests/REPO/TAG`. Outlives the cluster."""
        return self.cache.parent / "registry"

    @property
    def pki(self) -> Path:
        """Keys, certificates and the kubeconfigs of the components."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.state / "log"

    @property
    def pids(self) -> Path:
        """One file per process: its id and start time."""
        return self.state / "pid"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "admin.kubeconfig"

    @property
    def certs_d(self) -> Path:
        """Containerd's map from registry name to registry address."""
        return self.state / "certs.d"

    @property
    def lock(self) -> Path:
        """Held by every command that changes the cluster. Beside the state, since purge removes that."""
        return self.state.parent / "cluster.lock"

    def node(self, index: int) -> Path:
        """Everything of node `index`: containerd, kubelet, runc, CNI."""
        return self.state / f"node{index}"

    def netns(self, index: int) -> Path | None:
        """The network namespace of node `index`; None for node 1, which is the host."""
        return None if index == 1 else self.state / "netns" / node_name(index)

    def socket(self, index: int) -> Path:
        """Containerd's socket."""
        return self.node(index) / "containerd.sock"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Paths:
        """Follows the XDG folders of the user."""
        home = Path(env.get("HOME") or "/root")
        cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "headway" / "cluster"
        state = Path(env.get("HEADWAY_CLUSTER_STATE") or "")
        if not env.get("HEADWAY_CLUSTER_STATE"):
            state = Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "headway" / "cluster"
        for name, path in (("cache", cache), ("state", state)):
            if not path.is_absolute():
                raise ClusterError(f"the {name} folder {path} is not an absolute path; set XDG_*_HOME to one")
        made = cls(cache=cache, state=state)
        longest = f"{made.socket(MAX_NODES)}.ttrpc"
        if len(longest.encode()) > SOCKET_PATH_LIMIT:
            raise ClusterError(
                f"the state folder's path is too long for a UNIX socket ({longest} has {len(longest)} of at most "
                f"{SOCKET_PATH_LIMIT} bytes); set HEADWAY_CLUSTER_STATE to a shorter folder"
            )
        return made
