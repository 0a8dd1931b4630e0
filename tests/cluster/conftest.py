"""Fixtures of the end-to-end tests. `make test-cluster` (deploy/demo/testbed.py) starts what they need."""

import os
import uuid
from collections.abc import Iterator

import pytest
import steps


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    if "KUBECONFIG" not in os.environ:
        pytest.fail("no cluster: run these tests with `make test-cluster`", pytrace=False)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with restricted Pod Security, gone again after the test."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    steps.make_namespace(name)
    yield name
    # LLMDeployments first: their finalizer drains the pods, which needs the operator.
    steps.run(["kubectl", "delete", "llmdep", "--all", "-n", name, "--timeout=90s"])
    steps.run(["kubectl", "delete", "namespace", name, "--timeout=90s"])
