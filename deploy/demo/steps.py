"""The steps from a bare machine to a running fleet, each one command that a user could type.

The demo prints them as it goes; the end-to-end tests run the same ones. Nothing here decides anything: it starts the
cluster, builds the images, installs the chart, applies a manifest and asks Kubernetes what became of it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_NAMESPACE = "headway-system"
RELEASE = "headway"


class StepError(Exception):
    """A step did not reach its goal; the message says which, and what was seen."""


def say(text: str) -> None:
    """Print one progress line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(command: Sequence[str], *, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Run a command and return what it printed.

    Raises:
        StepError: it exited with another code than 0, or took too long; the message carries its last lines.
    """
    try:
        done = subprocess.run(
            command, input=stdin, text=True, capture_output=True, timeout=timeout_s, check=False, env=environment()
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise StepError(f"{' '.join(command)}: exit code {done.returncode}\n{tail}")
    return done.stdout


def show(command: Sequence[str], *, timeout_s: float = 1800) -> None:
    """Run a command with its output on the terminal.

    Raises:
        StepError: it exited with another code than 0.
    """
    try:
        code = subprocess.run(command, timeout=timeout_s, check=False, env=environment()).returncode
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from error
    if code:
        raise StepError(f"{' '.join(command)}: exit code {code}")


_environment: dict[str, str] = {}


def environment() -> Mapping[str, str]:
    """Return the environment for commands: the cluster's kubeconfig and binaries once it is up."""
    return {**os.environ, **_environment}


def wait_until(what: str, check: Callable[[], Any], *, timeout_s: float, every_s: float = 0.5) -> Any:
    """Poll `check` until it returns something true, and return that.

    Raises:
        StepError: not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if found := check():
            return found
        if time.monotonic() > deadline:
            raise StepError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster: who provides it (own, kind or current) and how to reach it."""

    provider: str
    kubeconfig: str

    def local(self, *arguments: str) -> list[str]:
        """Return a command of the local cluster tool."""
        return [sys.executable, str(ROOT / "deploy/local/cluster.py"), "--provider", self.provider, *arguments]


def start_cluster(provider: str, nodes: int, *, netpol: bool = False) -> Cluster:
    """Start the cluster (building it the first time) and point the environment at it.

    `netpol`: the own cluster enforces NetworkPolicies; what others do is theirs.
    """
    tool = [sys.executable, str(ROOT / "deploy/local/cluster.py"), "--provider", provider]
    show([*tool, "up", "--nodes", str(nodes), *(["--netpol"] if netpol and provider == "own" else [])])
    kubeconfig = run([*tool, "kubeconfig"]).strip()
    _environment["KUBECONFIG"] = kubeconfig
    folders = [str(ROOT / ".venv/bin")]
    if provider == "own":
        folders.insert(0, run([*tool, "bin-dir"]).strip())
    _environment["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])
    return Cluster(provider, kubeconfig)


def stop_cluster(cluster: Cluster) -> None:
    """Stop the cluster and leave nothing of it behind."""
    show(cluster.local("down"))


def build_images(cluster: Cluster) -> dict[str, str]:
    """Build both images; returns image name by repository ("headway-engine", "headway-operator")."""
    lines = run(
        [sys.executable, str(ROOT / "deploy/images/build.py"), "--provider", cluster.provider], timeout_s=3600
    ).splitlines()
    images = [json.loads(line)["name"] for line in lines if line.startswith("{")]
    return {image.rsplit("/", 1)[-1].rsplit(":", 1)[0]: image for image in images}


def install_chart(images: Mapping[str, str]) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    values = {
        "operator": dict(zip(("repository", "tag"), images["headway-operator"].rsplit(":", 1), strict=True)),
        "engine": dict(zip(("repository", "tag"), images["headway-engine"].rsplit(":", 1), strict=True)),
    }
    settings = [
        f"--set-string={kind}.image.{key}={value}" for kind, image in values.items() for key, value in image.items()
    ]
    run(
        ["helm", "upgrade", "--install", RELEASE, str(ROOT / "charts/headway"), "--namespace", SYSTEM_NAMESPACE,
         "--create-namespace", "--wait", "--timeout", "300s", *settings],
        timeout_s=330,
    )  # fmt: skip


def make_namespace(name: str) -> None:
    """Create a namespace that enforces restricted Pod Security."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    run(["kubectl", "apply", "--server-side", "-f", "-"], stdin=json.dumps(manifest))


def get(kind: str, *arguments: str) -> Any:
    """Return `kubectl get KIND ... -o json`, parsed."""
    return json.loads(run(["kubectl", "get", kind, *arguments, "-o", "json"]))


def fleet(name: str, namespace: str) -> dict[str, Any]:
    """Return the LLMDeployment as Kubernetes has it."""
    found: dict[str, Any] = get("llmdep", name, "-n", namespace)
    return found


def condition(deployment: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return one condition of an LLMDeployment, empty while it has none."""
    conditions = deployment.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})


def engine_pods(name: str, namespace: str) -> list[dict[str, Any]]:
    """Return the fleet's pods, terminating ones included."""
    found: list[dict[str, Any]] = get("pods", "-n", namespace, "-l", f"serving.headway.dev/fleet={name}")["items"]
    return found


def wait_ready(name: str, namespace: str, *, timeout_s: float = 240) -> dict[str, Any]:
    """Wait until the fleet's Ready condition is True for its current generation; returns the LLMDeployment.

    Raises:
        StepError: not within `timeout_s`; the message has the condition's own words.
    """
    # kubectl compares the generation. One process that watches: asking again and again takes CPU from the engine that starts.
    wanted = [
        "kubectl",
        "wait",
        f"llmdep/{name}",
        "-n",
        namespace,
        "--for=condition=Ready",
        f"--timeout={timeout_s:.0f}s",
    ]
    try:
        run(wanted, timeout_s=timeout_s + 30)
    except StepError as error:
        said = condition(fleet(name, namespace), "Ready").get("message", "no condition yet")
        raise StepError(f"{name} is not ready after {timeout_s:.0f} s: {said}") from error
    return fleet(name, namespace)
