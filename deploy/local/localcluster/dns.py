"""Cluster DNS: CoreDNS as a host process on the bridge address, behind the usual kube-dns Service.

A host process needs no image, answers before any node is ready and survives tests that kill nodes.
The Service has no selector; an EndpointSlice written by hand leads to the bridge.
"""

from __future__ import annotations

from pathlib import Path

from .api import Api, Json
from .errors import ClusterError
from .pki import kubeconfig
from .processes import Daemon, require_alive, start
from .registry import http_ok
from .settings import DNS_PORT, DNS_READY_PORT, Addresses, Paths
from .shell import wait_until

READY_TIMEOUT_S = 30.0
_ROLE = "headway:coredns"
_RBAC = "rbac.authorization.k8s.io"
_PORTS = [
    {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
    {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
]


def corefile(paths: Paths, addresses: Addresses) -> str:
    """CoreDNS' configuration; no upstream, since pods have no way to the internet."""
    return f""".:{DNS_PORT} {{
  bind {addresses.node_ip(1)}
  errors
  ready 127.0.0.1:{DNS_READY_PORT}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig(paths, "coredns")} headway
    pods verified
    ttl 5
  }}
  cache 5
}}
"""


def objects(addresses: Addresses) -> list[tuple[str, Json]]:
    """Service, endpoint and CoreDNS' right to watch, each with the path of its collection."""
    core = {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": ["list", "watch"]}
    slices = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    service: Json = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": str(addresses.dns_service), "ports": _PORTS},
    }
    endpoint: Json = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": _PORTS,
        "endpoints": [{"addresses": [str(addresses.node_ip(1))], "conditions": {"ready": True}}],
    }
    role: Json = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _ROLE},
        "rules": [core, slices],
    }
    binding: Json = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _ROLE},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": _ROLE},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": "system:coredns"}],
    }
    return [
        ("/api/v1/namespaces/kube-system/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", endpoint),
        (f"/apis/{_RBAC}/v1/clusterroles", role),
        (f"/apis/{_RBAC}/v1/clusterrolebindings", binding),
    ]


def start_dns(paths: Paths, addresses: Addresses, binaries: Path, api: Api) -> None:
    """Applies the objects and starts CoreDNS."""
    for path, obj in objects(addresses):
        api.apply(path, obj)
    config = paths.state / "Corefile"
    config.write_text(corefile(paths, addresses))
    start(paths, Daemon("coredns", [binaries / "coredns", "-conf", config]))


def wait_ready(paths: Paths) -> None:
    """Waits until CoreDNS knows the cluster's services."""

    def settled() -> bool:
        require_alive(paths, "coredns")
        return http_ok("127.0.0.1", DNS_READY_PORT, "/ready")

    if not wait_until(settled, READY_TIMEOUT_S):
        raise ClusterError(f"cluster DNS was not ready after {READY_TIMEOUT_S:.0f} s; see {paths.logs}/coredns.log")
