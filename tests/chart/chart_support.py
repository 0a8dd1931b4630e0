"""Rendering the chart for tests."""

import os
import subprocess
from collections.abc import Iterable
from typing import Any

import manifests
import yaml

Object = dict[str, Any]


def template(*options: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with `options`; the caller looks at the exit code."""
    argv = [manifests.helm(), "template", "headway", str(manifests.CHART), "--namespace", "headway-system", *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def render(*options: str) -> list[Object]:
    """The objects of a rendering that must succeed."""
    done = template(*options)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def notes(*options: str) -> str:
    """What `helm install` tells at its end, in a cluster with nothing but Kubernetes' own APIs."""
    argv = [manifests.helm(), "install", "headway", str(manifests.CHART), "--dry-run=client", *options]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, env={**os.environ, "KUBECONFIG": os.devnull}
    )
    return done.stdout.partition("NOTES:")[2]


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """The objects of one kind."""
    return [item for item in objects if item["kind"] == kind]


def only(objects: Iterable[Object], kind: str) -> Object:
    """The one object of a kind."""
    (found,) = of_kind(objects, kind)
    return found


def operator_pod(objects: Iterable[Object]) -> Object:
    """The pod template's spec."""
    spec: Object = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def env(objects: Iterable[Object]) -> dict[str, str]:
    """The operator's variables that have a plain value."""
    (container,) = operator_pod(objects)["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
