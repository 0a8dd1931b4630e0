"""What is built: pinned programs, their build flags, and the key under which the result is cached.

Each program has a Go module of its own (`../gomod/NAME`), because their dependencies need different
versions; one module for all does not compile. go.sum makes the build repeatable.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, field
from pathlib import Path

GO_MINIMUM = (1, 26, 8)
# From this version on, `go` fetches the toolchain that a go.mod names by itself.
GO_SELF_UPDATING = (1, 21, 0)
KUBERNETES = "v1.36.3"
CONTAINERD = "v2.3.7"
RUNC = "1.4.0"
HELM = "v4.3.1"
GO_FLAGS = "-trimpath -buildvcs=false -mod=readonly"
GOMOD = Path(__file__).resolve().parent.parent / "gomod"

_KUBE_VERSION = "k8s.io/component-base/version"
_KUBE_MAJOR, _KUBE_MINOR = KUBERNETES.lstrip("v").split(".")[:2]


@dataclass(frozen=True, slots=True)
class Program:
    """One `go build`: a module folder and the commands it yields."""

    name: str
    packages: tuple[str, ...]
    ldflags: str = ""
    tags: str = ""
    cgo: bool = False
    # Commands whose package folder is named otherwise (`go build` names the binary after the folder).
    renames: dict[str, str] = field(default_factory=dict)

    @property
    def binaries(self) -> tuple[str, ...]:
        """File names after the build and its renames."""
        last = (package.rsplit("/", 1) for package in self.packages)
        names = [
            head.rsplit("/", 1)[-1] if tail.startswith("v") and tail[1:].isdigit() else tail for head, tail in last
        ]
        return tuple(self.renames.get(name, name) for name in names)


PROGRAMS = (
    Program(
        name="kubernetes",
        packages=(
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
            "k8s.io/kubernetes/cmd/kubectl",
            "go.etcd.io/etcd/server/v3",
            "sigs.k8s.io/kwok/cmd/kwok",
        ),
        # Without these the node reports version `v0.0.0-master+$Format:%H$`.
        ldflags=(
            f"-X {_KUBE_VERSION}.gitVersion={KUBERNETES} -X {_KUBE_VERSION}.gitMajor={_KUBE_MAJOR} "
            f"-X {_KUBE_VERSION}.gitMinor={_KUBE_MINOR} -X {_KUBE_VERSION}.gitTreeState=clean "
            f"-X {_KUBE_VERSION}.buildDate=1970-01-01T00:00:00Z"
        ),
        renames={"server": "etcd"},
    ),
    Program(
        name="containerd",
        packages=(
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ),
        ldflags=f"-X github.com/containerd/containerd/v2/version.Version={CONTAINERD}",
        tags="no_btrfs",
    ),
    # runc needs C for its first stage, before the Go runtime starts.
    Program(
        name="runc",
        packages=("github.com/opencontainers/runc",),
        ldflags=f"-X main.version={RUNC}",
        tags="seccomp",
        cgo=True,
    ),
    Program(name="coredns", packages=("github.com/coredns/coredns",)),
    Program(name="helm", packages=("helm.sh/helm/v4/cmd/helm",)),
)
# Built apart, and only for tests of the alerts: no cluster waits for it. Of the ways to discover targets only Kubernetes'
# is compiled in, and there is no web interface.
WATCHERS = (
    Program(
        name="prometheus",
        packages=(
            "github.com/prometheus/prometheus/cmd/prometheus",
            "github.com/prometheus/prometheus/cmd/promtool",
        ),
        tags="netgo,remove_all_sd,enable_kubernetes_sd",
    ),
)


def pins_key(programs: tuple[Program, ...] = PROGRAMS, gomod: Path = GOMOD, machine: str = "") -> str:
    """Names a build by everything that decides its result, so that a changed pin builds anew."""
    digest = hashlib.sha256()
    digest.update(f"{machine or platform.machine()}\0{GO_FLAGS}\0".encode())
    for program in programs:
        digest.update(repr(program).encode())
        for name in ("go.mod", "go.sum", "tools.go"):
            digest.update((gomod / program.name / name).read_bytes())
    label = KUBERNETES if programs[0].name == "kubernetes" else programs[0].name
    return f"{label}-{digest.hexdigest()[:12]}"
