"""GPUs without GPUs: an extended resource on a real node, and kwok nodes that exist only in the API.

A pod that asks for `nvidia.com/gpu` is scheduled, runs or stays Pending just as with a device plugin.
Fake nodes carry a taint, so that only pods which tolerate it land there; kwok plays their kubelet.
"""

from __future__ import annotations

from pathlib import Path

from .api import MERGE, Api, ApiError, Json
from .build import STAGES
from .errors import ClusterError
from .node import is_ready
from .ocifolder import architecture
from .processes import Daemon, require_alive, start
from .settings import Addresses, Paths
from .shell import wait_until

RESOURCE = "nvidia.com/gpu"
PRODUCT = "NVIDIA-H100-80GB-HBM3"
TAINT = "kwok.x-k8s.io/node"
TIMEOUT_S = 30.0


def set_on_node(api: Api, name: str, count: int) -> None:
    """Gives a real node `count` GPUs (0 takes them away); kubelet copies the capacity within seconds."""
    if count < 0:
        raise ClusterError(f"a node cannot have {count} GPUs")
    try:
        patch: Json = {"status": {"capacity": {RESOURCE: str(count)}}}
        api.call("PATCH", f"/api/v1/nodes/{name}/status", patch, MERGE)
    except ApiError as err:
        raise ClusterError(f"node {name}: {err}") from err

    def copied() -> bool:
        return _allocatable(api.call("GET", f"/api/v1/nodes/{name}")) == str(count)

    if not wait_until(copied, TIMEOUT_S):
        raise ClusterError(f"node {name} did not take over its {count} GPUs within {TIMEOUT_S:.0f} s; is kubelet up?")


def fake_node(index: int, gpus: int) -> Json:
    """A node of one machine with GPUs that kwok keeps Ready."""
    name = f"fake-{index}"
    resources = {"cpu": "128", "memory": "2Ti", "pods": "250", RESOURCE: str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {TAINT: "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                "type": "kwok",
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
                "kubernetes.io/hostname": name,
                f"{RESOURCE}.product": PRODUCT,
                f"{RESOURCE}.count": str(gpus),
            },
        },
        "spec": {"taints": [{"key": TAINT, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }


def start_kwok(paths: Paths, addresses: Addresses, binaries: Path) -> None:
    """Starts kwok, for nodes with its annotation only."""
    argv: list[str | Path] = [
        binaries / "kwok",
        f"--kubeconfig={paths.kubeconfig}",
        f"--config={binaries / STAGES}",  # without stages it exits
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={TAINT}=fake",
        "--node-lease-duration-seconds=40",
        f"--cidr={addresses.fake_pods}",
        f"--node-ip={addresses.node_ip(1)}",
        "--server-address=",  # none: nothing asks for the logs of pods that do not exist
    ]
    start(paths, Daemon("kwok", argv))


def set_fake_nodes(paths: Paths, addresses: Addresses, binaries: Path, count: int, gpus: int) -> None:
    """Makes the number of fake nodes `count`, each with `gpus` GPUs; 0 removes all."""
    if not 0 <= count <= 500 or gpus < 0:
        raise ClusterError(f"{count} fake nodes with {gpus} GPUs: the count must be 0 to 500 and GPUs not negative")
    api = Api(paths, addresses)
    if count:
        start_kwok(paths, addresses, binaries)
    wanted = [fake_node(index, gpus) for index in range(count)]
    for obj in wanted:
        api.apply("/api/v1/nodes", obj)
        # Apply to the node drops its status; apply to the status drops the rest.
        api.apply("/api/v1/nodes", obj, "/status")
    names = {obj["metadata"]["name"] for obj in wanted}
    for existing in api.items("/api/v1/nodes?labelSelector=type%3Dkwok"):
        if existing["metadata"]["name"] not in names:
            api.call("DELETE", f"/api/v1/nodes/{existing['metadata']['name']}")

    def settled() -> bool:
        if count:
            require_alive(paths, "kwok")
        return all(_settled(api, name, gpus) for name in names)

    if not wait_until(settled, TIMEOUT_S):
        raise ClusterError(f"the fake nodes were not Ready within {TIMEOUT_S:.0f} s; see {paths.logs}/kwok.log")


def _settled(api: Api, name: str, gpus: int) -> bool:
    node = api.call("GET", f"/api/v1/nodes/{name}")
    return is_ready(node) and _allocatable(node) == str(gpus)


def _allocatable(node: Json) -> str:
    return str(node["status"].get("allocatable", {}).get(RESOURCE, "0"))
