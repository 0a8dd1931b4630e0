"""Whatever happens to the local cluster, `down` leaves the host as it was.

These start clusters of their own (state in a folder of their own, same names on the host), so the
user's cluster must be down. They run with `-m cluster_lifecycle`, as root.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from localcluster import build, cgroups, cli, firewall, images, leftovers, mounts, processes, record, sysctls
from localcluster.settings import ETCD_PORT, Addresses, Paths
from localcluster.shell import run, wait_until

ENTRY = Path(cli.__file__).parent.parent / "cluster.py"
ADDRESSES = Addresses.from_env({})

pytestmark = [
    pytest.mark.cluster_lifecycle,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.geteuid() != 0, reason="a local cluster needs root"),
]


def host() -> dict[str, object]:
    """All that the cluster could change on the host, by the host's own tools."""
    chains = run(["iptables-save"]) + run(["ip6tables-save"])
    return {
        "interfaces": sorted(p.name for p in Path("/sys/class/net").iterdir()),
        "routes": sorted(run(["ip", "route", "show", "table", "all"]).splitlines()),
        "mounts": sorted(str(p) for p in mounts.below(Path("/"))),
        "namespaces": len(run(["lsns", "-t", "net", "-n", "-o", "NS"]).split()),
        "cgroups": sorted(str(d) for tree in cgroups.ROOT.iterdir() for d in tree.glob("*") if d.is_dir()),
        "chains": [line for line in chains.splitlines() if line.startswith(":")],
        "tables": firewall.tables_now(),
        "sysctls": sysctls.read(),
        "folders": [
            p for p in ("/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/run/netns") if Path(p).exists()
        ],
    }


@dataclass(frozen=True, slots=True)
class Tool:
    """`cluster.py` with a state folder of its own."""

    paths: Paths

    @property
    def environment(self) -> dict[str, str]:
        """The caller's, with the state folder."""
        return {**os.environ, "HEADWAY_CLUSTER_STATE": str(self.paths.state), "KUBECONFIG": str(self.paths.kubeconfig)}

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        """Runs a command; returns its output, or its error output when it has to fail."""
        argv = [sys.executable, str(ENTRY), *arguments]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False, timeout=900)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def kubectl(self, *arguments: str, stdin: object = None, check: bool = True) -> str:
        """Runs kubectl against this cluster."""
        argv = [str(build.bin_dir(self.paths) / "kubectl"), *arguments]
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run(
            argv, env=self.environment, input=text, capture_output=True, text=True, check=False, timeout=270
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def left(self) -> list[str]:
        """What of the cluster is on the host, firewall chains included."""
        return leftovers.find(self.paths, ADDRESSES, record.Host("", {}, [], []))


@pytest.fixture
def tool() -> Iterator[Tool]:
    """The tool while no cluster is up, and the host as before after the test."""
    # Short, for the sockets; pytest's own folder is too deep.
    folder = Path(tempfile.mkdtemp(prefix="hw-"))
    made = Tool(Paths(cache=Paths.from_env(os.environ).cache, state=folder / "state"))
    if left := made.left():
        shutil.rmtree(folder)
        pytest.fail(f"a cluster is up on this machine; stop it first: {left[:3]}", pytrace=False)
    before = host()
    yield made
    made("down", "--purge")
    assert made.left() == []
    assert host() == before
    shutil.rmtree(folder)


def server(name: str, replicas: int, **spec: Any) -> dict[str, Any]:
    """A Deployment that serves HTTP, with a tmpfs and a volume in it as things to unmount."""
    container = {
        "name": "c",
        "image": images.reference(images.BASE),
        "command": ["python3", "-m", "http.server", "8080"],
        "volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "i", "mountPath": "/i"}],
    }
    volumes = [
        {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "i", "image": {"reference": images.reference(images.PAUSE)}},
    ]
    labels = {"app": name}
    pod = {"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def shims() -> list[int]:
    """The processes between containerd and the containers."""
    lines = run(["ps", "-eo", "pid=,args="]).splitlines()
    return [int(line.split()[0]) for line in lines if "containerd-shim-runc-v2 -namespace" in line]


def test_nothing_is_left_after_a_kill_of_any_part(tool: Tool) -> None:
    tool("up", "--nodes", "1", "--netpol")
    tool.kubectl("create", "-f", "-", stdin=server("web", 2))
    tool.kubectl("rollout", "status", "deploy/web", "--timeout=240s")
    parts = sorted(p.name for p in tool.paths.pids.iterdir())
    assert {"etcd", "kube-apiserver", "containerd1", "kubelet1", "kube-proxy1", "registry", "coredns"} <= set(parts)
    for part in [*parts, "shims", "everything"]:
        if part in parts:
            pid = processes.pid_of(tool.paths, part)
            assert pid is not None, part
            os.kill(pid, signal.SIGKILL)
        else:
            for pid in shims() if part == "shims" else processes.marked(tool.paths):
                # One of them may end because the one before was killed: a container's shim takes its processes along.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        tool("down")
        assert tool.left() == [], part
        tool("up")
    # The objects have outlived all of it, and run again.
    tool.kubectl("rollout", "status", "deploy/web", "--timeout=240s")
    tool.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=240s")


@pytest.mark.parametrize("reached", ["host.json", "pid/etcd", "pid/containerd1", "pid/kubelet1"])
def test_nothing_is_left_of_an_interrupted_up(tool: Tool, reached: str) -> None:
    argv = [sys.executable, str(ENTRY), "up", "--nodes", "1"]
    with subprocess.Popen(argv, env=tool.environment, stdout=subprocess.DEVNULL) as child:
        assert wait_until((tool.paths.state / reached).exists, 300)
        child.kill()
    tool("down")
    assert tool.left() == []


def test_two_nodes_lose_power_and_come_back_with_policies_and_fake_gpus(tool: Tool) -> None:
    tool("up", "--nodes", "2", "--netpol")
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    constraints = [{**spread, "labelSelector": {"matchLabels": {"app": "web"}}}]
    tool.kubectl("create", "-f", "-", stdin=server("web", 4, topologySpreadConstraints=constraints))
    tool.kubectl("expose", "deploy/web", "--port=80", "--target-port=8080")
    tool.kubectl("create", "-f", "-", stdin=server("client", 1, nodeSelector={"kubernetes.io/hostname": "headway-2"}))
    for name in ("web", "client"):
        tool.kubectl("rollout", "status", f"deploy/{name}", "--timeout=240s")
    nodes = tool.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(nodes) == ["headway-1", "headway-1", "headway-2", "headway-2"]

    def reaches_web() -> bool:
        code = "import urllib.request; print(urllib.request.urlopen('http://web/m', timeout=2).status)"
        answers = [
            tool.kubectl("exec", "deploy/client", "--", "python3", "-c", code, check=False).strip() for _ in range(4)
        ]
        return answers == ["200"] * 4

    assert wait_until(reaches_web, 120)
    policy: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": []},
    }
    tool.kubectl("create", "-f", "-", stdin=policy)
    assert wait_until(lambda: not reaches_web(), 120)
    policy["spec"]["ingress"] = [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
    tool.kubectl("replace", "-f", "-", stdin=policy)
    assert wait_until(reaches_web, 120)

    tool("kill-node", "2")
    assert "ended: containerd2" in subprocess.run(
        [sys.executable, str(ENTRY), "status"], env=tool.environment, capture_output=True, text=True, check=False
    ).stdout  # fmt: skip
    tool.kubectl("wait", "--for=condition=Ready=Unknown", "node/headway-2", "--timeout=240s")
    tool("up")
    tool.kubectl("wait", "--for=condition=Ready", "node/headway-2", "--timeout=240s")
    tool.kubectl("rollout", "status", "deploy/web", "--timeout=240s")

    tool("fake-nodes", "2", "8")
    tolerations = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
    fake = server("fake", 17, nodeSelector={"type": "kwok"}, tolerations=tolerations)
    fake["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    tool.kubectl("create", "-f", "-", stdin=fake)
    tool.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=16", "deploy/fake", "--timeout=240s")

    def conditions() -> str:
        path = "jsonpath={.items[*].status.conditions[*].message}"
        return tool.kubectl("get", "pods", "-l", "app=fake", "-o", path)

    assert wait_until(lambda: "Insufficient nvidia.com/gpu" in conditions(), 120), conditions()

    tool("up", "--nodes", "1")
    assert "headway-2" not in tool.kubectl("get", "nodes", "-o", "name")


def test_up_stays_away_from_another_kubernetes(tool: Tool) -> None:
    run(["iptables", "-t", "nat", "-N", "KUBE-SERVICES"])
    try:
        assert "another Kubernetes has firewall rules" in tool("up", fails=True)
        tool("down")
        assert firewall.chains_now() == ["KUBE-SERVICES"]
    finally:
        run(["iptables", "-t", "nat", "-X", "KUBE-SERVICES"])
        run(["nft", "delete", "table", "ip", "nat"])


def test_up_refuses_a_taken_range_and_a_taken_port_by_name(tool: Tool) -> None:
    run(["ip", "link", "add", "lifecycle0", "type", "bridge"])
    run(["ip", "addr", "add", f"{ADDRESSES.nodes[9]}/29", "dev", "lifecycle0"])
    try:
        with socket.create_server(("127.0.0.1", ETCD_PORT)):
            said = tool("up", fails=True)
    finally:
        run(["ip", "link", "del", "lifecycle0"])
    assert "overlaps 10.213.0.8/29, the address of lifecycle0; set HEADWAY_NODE_NET to a free range" in said
    assert f"port {ETCD_PORT} on 127.0.0.1 is in use" in said
    assert not (tool.paths.state / "host.json").exists()
