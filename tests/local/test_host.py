"""What the host shows of the cluster: mounts, folders, sockets, the files that nodes are configured with."""

import json
import socket
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

from localcluster import dns, hostdirs, nodeconfig
from localcluster.mounts import parse_mountinfo
from localcluster.node import is_ready
from localcluster.pki import cluster_certificates, node_certificate
from localcluster.settings import Addresses, Paths

PATHS = Paths(cache=Path("/c"), state=Path("/s/cluster"))
ADDRESSES = Addresses.from_env({})


def test_mounts_below_the_state_folder_are_found_latest_first_with_their_real_names() -> None:
    text = (
        "21 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "30 21 0:5 / /s/cluster/node1/a\\040b rw shared:1 - tmpfs tmpfs rw\n"
        "31 21 0:5 / /s/cluster2 rw - tmpfs tmpfs rw\n"
        "32 30 0:6 net:[4026] /s/cluster/netns/headway-2 rw - nsfs nsfs rw\n"
    )
    assert parse_mountinfo(text, Path("/s/cluster")) == [
        Path("/s/cluster/netns/headway-2"),
        Path("/s/cluster/node1/a b"),
    ]


def test_a_made_folder_goes_when_empty_and_stays_when_another_program_uses_it(tmp_path: Path) -> None:
    (tmp_path / "ours" / "sub").mkdir(parents=True)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("theirs")
    hostdirs.remove_made([str(tmp_path / "ours"), str(tmp_path / "used"), str(tmp_path / "never-made")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["used"]


def test_a_dead_socket_goes_and_a_live_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as dead:
        live.bind(str(folder / "live"))
        live.listen()
        dead.bind(str(folder / "dead"))
        dead.close()
        hostdirs.remove_made([str(folder)])
        assert [p.name for p in folder.iterdir()] == ["live"]


def test_absent_folders_are_those_the_cluster_will_make(tmp_path: Path) -> None:
    assert hostdirs.absent((str(tmp_path), str(tmp_path / "x"))) == [str(tmp_path / "x")]


def test_every_folder_of_containerd_lies_below_the_state_folder() -> None:
    text = nodeconfig.containerd(PATHS, Path("/c/bin"), 2)
    folders = [
        line.split('"')[1] for line in text.splitlines() if line.lstrip().startswith(("root =", "state =", "Root ="))
    ]
    assert folders == ["/s/cluster/node2/containerd", "/s/cluster/node2/run", "/s/cluster/node2/runc"]
    assert 'conf_dir = "/s/cluster/node2/cni"' in text
    assert "netns_mounts_under_state_dir = true" in text


def test_a_kubelet_listens_on_its_own_address_and_the_loopback_only() -> None:
    config = json.loads(nodeconfig.kubelet(PATHS, ADDRESSES, 2))
    assert config["address"] == "10.213.0.2"
    assert config["healthzBindAddress"] == "127.0.0.1"
    assert config["cgroupRoot"] == "/headway-2"
    assert config["clusterDNS"] == ["10.215.0.10"]


def test_the_pod_network_of_a_node_is_its_own_24() -> None:
    bridge, portmap = json.loads(nodeconfig.cni(PATHS, ADDRESSES, 2))["plugins"]
    assert IPv4Network(bridge["ipam"]["ranges"][0][0]["subnet"]) == ADDRESSES.pod_cidr(2)
    assert bridge["bridge"] == "headway-pods"
    assert portmap["type"] == "portmap"


def test_the_api_servers_certificate_covers_every_name_and_address_it_is_reached_by() -> None:
    names = next(c for c in cluster_certificates(ADDRESSES) if c.name == "apiserver").alt_names.split(",")
    assert {"DNS:kubernetes.default.svc", "IP:10.215.0.1", "IP:10.213.0.1", "IP:127.0.0.1"} <= set(names)
    assert node_certificate(ADDRESSES, 2).subject == "/O=system:nodes/CN=system:node:headway-2"


def test_dns_listens_on_the_bridge_and_the_service_leads_there() -> None:
    assert "bind 10.213.0.1\n" in dns.corefile(PATHS, ADDRESSES)
    service, endpoints = (obj for _, obj in dns.objects(ADDRESSES)[:2])
    assert service["spec"]["clusterIP"] == "10.215.0.10"
    assert endpoints["endpoints"][0]["addresses"] == ["10.213.0.1"]


def test_ready_from_before_a_restart_does_not_count() -> None:
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T10:00:00Z"}
    node = {"status": {"conditions": [{"type": "DiskPressure", "status": "False"}, condition]}}
    assert is_ready(node)
    assert is_ready(node, datetime(2026, 1, 1, 10, 0, 0, tzinfo=UTC))
    assert not is_ready(node, datetime(2026, 1, 1, 10, 0, 1, tzinfo=UTC))
    assert not is_ready({"status": {}})
