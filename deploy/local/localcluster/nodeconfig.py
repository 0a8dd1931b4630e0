"""The configuration files of a node: containerd, kubelet, CNI, and the map to the image registry."""

from __future__ import annotations

import json
from pathlib import Path

from . import cgroups, images
from .deps import CNI_BIN
from .settings import (
    KUBELET_HEALTH_PORT,
    POD_BRIDGE,
    REGISTRY_PORT,
    Addresses,
    Paths,
    node_name,
)


def containerd(paths: Paths, binaries: Path, index: int) -> str:
    """containerd.toml: every folder below the state folder, so that a teardown can find all of it."""
    folder = paths.node(index)
    return f"""\
version = 3
root = "{folder}/containerd"
state = "{folder}/run"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{paths.socket(index)}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{images.reference(images.PAUSE)}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{paths.certs_d}"
[plugins."io.containerd.cri.v1.runtime"]
  # Lowering oom_score_adj needs CAP_SYS_RESOURCE, which root in a virtual machine or container may lack.
  restrict_oom_score_adj = true
  # Not in /run/netns, which other tools mount over.
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_BIN}"]
  conf_dir = "{folder}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{binaries}/runc"
    Root = "{folder}/runc"
    SystemdCgroup = false
"""


def registry_hosts(addresses: Addresses) -> str:
    """hosts.toml: where the registry's name leads. Plain HTTP, as it never leaves the bridge."""
    url = f"http://{addresses.node_ip(1)}:{REGISTRY_PORT}"
    return f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def cni(paths: Paths, addresses: Addresses, index: int) -> str:
    """The pod network of a node: a bridge with the node's /24, and host ports."""
    ipam = {
        "type": "host-local",
        "dataDir": str(paths.node(index) / "ipam"),
        "ranges": [[{"subnet": str(addresses.pod_cidr(index))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": POD_BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "headway", "plugins": [{**bridge, "ipam": ipam}, portmap]})


def kubelet(paths: Paths, addresses: Addresses, index: int) -> str:
    """KubeletConfiguration (JSON is YAML)."""
    folder, name = paths.node(index), node_name(index)
    config: dict[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True,
        "cgroupRoot": f"/{name}",
        "enforceNodeAllocatable": [],
        "address": str(addresses.node_ip(index)),
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": KUBELET_HEALTH_PORT,
        "containerRuntimeEndpoint": f"unix://{paths.socket(index)}",
        "clusterDNS": [str(addresses.dns_service)],
        "clusterDomain": "cluster.local",
        "podLogsDir": str(folder / "podlogs"),
        "volumePluginDir": str(folder / "volumeplugins"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.pki / f"{name}.crt"),
        "tlsPrivateKeyFile": str(paths.pki / f"{name}.key"),
        # A developer's disk is fuller than a server's: act only when it is about to end.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
    }
    if cgroups.is_v2():
        del config["failCgroupV1"]
    return json.dumps(config, indent=1)
