"""Fixtures of the end-to-end tests. `make test-cluster` (deploy/demo/testbed.py) starts what they need."""

import os
import uuid
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import steps
from aftermath import aftermath
from fleets import DRAIN_S, apply, manifest
from incidents import Incidents, incidents
from prometheus import Prometheus
from reference import Reference


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    if "KUBECONFIG" not in os.environ:
        pytest.fail("no cluster: run these tests with `make test-cluster`", pytrace=False)


class Removals:
    """Namespaces go away, drains included, beside the next test."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._begun: list[Future[None]] = []

    def begin(self, namespace: str) -> None:
        """Remove a namespace from now on."""
        self._begun.append(self._threads.submit(_remove, namespace))

    def finish(self) -> None:
        """Wait for the last one.

        Raises:
            StepError: one does not go away.
        """
        for one in self._begun:
            one.result()


def _remove(namespace: str) -> None:
    # LLMDeployments first: their finalizer drains the pods, which needs the operator.
    patience_s = DRAIN_S + 60
    for what in (["llmdep", "--all", "-n", namespace], ["namespace", namespace]):
        try:
            steps.run(["kubectl", "delete", *what, f"--timeout={patience_s}s"], timeout_s=patience_s + 30)
        except steps.StepError as error:
            error.add_note(aftermath(namespace))
            raise


@pytest.fixture(scope="session")
def removals(_cluster: None) -> Iterator[Removals]:
    """The session ends when every namespace is gone."""
    with ThreadPoolExecutor() as threads:
        found = Removals(threads)
        yield found
        found.finish()


@contextmanager
def _namespace(removals: Removals) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    steps.make_namespace(name)
    yield name
    removals.begin(name)


@pytest.fixture
def namespace(removals: Removals) -> Iterator[str]:
    """A namespace with restricted Pod Security, gone again after the test."""
    with _namespace(removals) as name:
        yield name


@pytest.fixture(scope="session")
def served(removals: Removals) -> Iterator[tuple[str, str]]:
    """Name and namespace of a fleet that serves, for tests that leave it as it was."""
    with _namespace(removals) as name:
        apply(name, manifest("smollm2"))
        steps.wait_ready("smollm2", name)
        yield "smollm2", name


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The packed model in transformers, on the disk that this machine's node has too."""
    return Reference(tmp_path_factory.mktemp("volume") / "smollm2")


@pytest.fixture(scope="session")
def incident(removals: Removals, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incidents]:
    """Fleets in trouble, and a Prometheus that watches them."""
    with (
        _namespace(removals) as name,
        Prometheus(tmp_path_factory.mktemp("prometheus")) as prometheus,
        incidents(name, prometheus) as begun,
    ):
        yield begun


@pytest.fixture(scope="session", autouse=True)
def _incident_begins_first(_cluster: None, request: pytest.FixtureRequest) -> None:
    """Alerts hold for minutes before they fire: those minutes pass beside the other tests."""
    if any(_waits_for_alerts(item) for item in request.session.items):
        request.getfixturevalue("incident")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Alerts hold for minutes before they fire: they are asked for last."""
    items.sort(key=_waits_for_alerts)


def _waits_for_alerts(item: pytest.Item) -> bool:
    return "incident" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report has what its namespace looked like."""
    report = yield
    if call.when != "teardown" and report.failed:
        for name in _namespaces(getattr(item, "funcargs", {})):
            report.sections.append((f"namespace {name}", aftermath(name)))
    return report


def _namespaces(fixtures: Mapping[str, Any]) -> Iterator[str]:
    """Where a test with these fixtures has fleets."""
    if "namespace" in fixtures:
        yield fixtures["namespace"]
    if "served" in fixtures:
        yield fixtures["served"][1]
    if "incident" in fixtures:
        yield fixtures["incident"].namespace
