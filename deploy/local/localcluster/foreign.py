"""Clusters this package did not make: a kind cluster, or whatever the user's context points at.

For `kind` the `kind` program does all the work. `current` only looks: it never changes the cluster
or the context, and `down` leaves it as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .settings import Paths

KIND_CLUSTER = "headway"


@dataclass(frozen=True, slots=True)
class Kind:
    """A cluster in containers, made by kind."""

    paths: Paths

    @property
    def kubeconfig(self) -> str:
        """A file of its own, so that the user's contexts stay as they are."""
        return str(self.paths.state.parent / "kind.kubeconfig")

    def up(self, nodes: int) -> str:
        """Creates the cluster unless it is there."""
        if KIND_CLUSTER in self._clusters():
            return f"the kind cluster {KIND_CLUSTER!r} is there already"
        Path(self.kubeconfig).parent.mkdir(parents=True, exist_ok=True)
        roles = "".join(f"\n- role: {role}" for role in ["control-plane", *["worker"] * (nodes - 1)])
        config = f"kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:{roles}\n"
        self._kind("create", "cluster", "--wait", "180s", "--config", "-", stdin=config)
        return f"the kind cluster {KIND_CLUSTER!r} is up"

    def down(self) -> str:
        """Deletes the cluster."""
        self._kind("delete", "cluster")
        Path(self.kubeconfig).unlink(missing_ok=True)
        return f"the kind cluster {KIND_CLUSTER!r} is deleted"

    def status(self) -> tuple[bool, str]:
        """Whether the cluster is there."""
        there = KIND_CLUSTER in self._clusters()
        return there, f"the kind cluster {KIND_CLUSTER!r} is {'up' if there else 'not there'}"

    def _clusters(self) -> list[str]:
        return _output([self._program(), "get", "clusters"]).split()

    def _kind(self, *arguments: str, stdin: str | None = None) -> None:
        """Runs kind with its own progress on the terminal."""
        argv = [self._program(), *arguments, "--name", KIND_CLUSTER, "--kubeconfig", self.kubeconfig]
        done = subprocess.run(argv, input=stdin, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"`{' '.join(argv)}` failed with exit status {done.returncode}")

    @staticmethod
    def _program() -> str:
        found = shutil.which("kind")
        if not found:
            raise ClusterError(
                "CLUSTER=kind needs the `kind` program and a container engine, and there is no `kind` on the PATH. "
                "Install it from https://kind.sigs.k8s.io, or leave CLUSTER out: the default needs neither"
            )
        return found


@dataclass(frozen=True, slots=True)
class Current:
    """The cluster of the user's own context."""

    kubectl: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls, binaries: Path) -> Current:
        """Takes the user's kubectl, or the one built for the local cluster."""
        found = shutil.which("kubectl") or shutil.which("kubectl", path=str(binaries))
        if not found:
            raise ClusterError("CLUSTER=current needs `kubectl` on the PATH, or `cluster.py build` once")
        return cls(found, os.environ)

    @property
    def kubeconfig(self) -> str:
        """What kubectl reads: may be several files, joined by colons."""
        return self.environment.get("KUBECONFIG") or str(Path(self.environment.get("HOME", "/root")) / ".kube/config")

    def up(self) -> str:
        """Checks that the cluster answers; raises with kubectl's words when it does not."""
        usable, text = self.status()
        if not usable:
            raise ClusterError(text)
        return text

    def down(self) -> str:
        """Leaves everything as it is."""
        return "CLUSTER=current: your own cluster is left as it is"

    def status(self) -> tuple[bool, str]:
        """Whether the cluster answers, and which one it is."""
        try:
            context = _output([self.kubectl, "config", "current-context"]).strip()
        except ClusterError as err:
            return False, f"CLUSTER=current: {self.kubeconfig} has no current context ({err})"
        try:
            _output([self.kubectl, "get", "--raw", "/readyz", "--request-timeout=10s"])
        except ClusterError as err:
            return False, f"CLUSTER=current: the cluster of context {context!r} does not answer: {err}"
        return True, f"context {context!r} answers"


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ClusterError(lines[-1])
    return done.stdout
