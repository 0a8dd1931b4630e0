"""Fixtures of the end-to-end tests. `make test-cluster` (deploy/demo/testbed.py) starts what they need."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import steps
from incidents import Incidents, incidents
from prometheus import Prometheus


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    if "KUBECONFIG" not in os.environ:
        pytest.fail("no cluster: run these tests with `make test-cluster`", pytrace=False)


@contextmanager
def _namespace() -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    steps.make_namespace(name)
    yield name
    # LLMDeployments first: their finalizer drains the pods, which needs the operator.
    steps.run(["kubectl", "delete", "llmdep", "--all", "-n", name, "--timeout=90s"])
    steps.run(["kubectl", "delete", "namespace", name, "--timeout=90s"])


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with restricted Pod Security, gone again after the test."""
    with _namespace() as name:
        yield name


@pytest.fixture(scope="session")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incidents]:
    """Fleets in trouble, and a Prometheus that watches them."""
    with (
        _namespace() as name,
        Prometheus(tmp_path_factory.mktemp("prometheus")) as prometheus,
        incidents(name, prometheus) as begun,
    ):
        yield begun


@pytest.fixture(scope="session", autouse=True)
def _incident_begins_first(_cluster: None, request: pytest.FixtureRequest) -> None:
    """Alerts hold for minutes before they fire: those minutes pass beside the other tests."""
    if any("incident" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("incident")
