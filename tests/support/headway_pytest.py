"""Fixtures that every integration test may use; loaded by tests/conftest.py."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from apiserver import ApiServer, running

CRD_FILE = Path(__file__).parents[2] / "deploy" / "crd" / "llmdeployments.yaml"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ESTABLISH_TIMEOUT_S = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def bare_apiserver() -> Iterator[ApiServer]:
    """A real API server without Headway's CRD, one per test run."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def apiserver(bare_apiserver: ApiServer) -> ApiServer:
    """A real API server that serves LLMDeployments, one per test run."""
    install_crd(bare_apiserver)
    return bare_apiserver


@pytest.fixture
def namespace(bare_apiserver: ApiServer, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own. It is not deleted (no controller would finish that); the server goes as a whole."""
    return make_namespace(bare_apiserver)


def make_namespace(server: ApiServer) -> str:
    """Creates a namespace with a name of its own."""
    name = f"test-{next(_numbers)}"
    server.api.create("/api/v1/namespaces", {"metadata": {"name": name}}).ok()
    return name


def install_crd(server: ApiServer) -> None:
    """Applies the generated CRD and waits until the server serves it."""
    manifest = yaml.safe_load(CRD_FILE.read_text())
    path = f"{CRD_PATH}/{manifest['metadata']['name']}"
    server.api.apply(path, manifest, "test", force=True).ok()
    collection = f"/apis/{manifest['spec']['group']}/v1alpha1/{manifest['spec']['names']['plural']}"
    deadline = time.monotonic() + ESTABLISH_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.api.get(collection).status == 200:
            return
        time.sleep(0.05)
    conditions = server.api.get(path).body.get("status", {}).get("conditions")
    raise TimeoutError(f"the CRD is not served after {ESTABLISH_TIMEOUT_S:.0f} s: {conditions}")
