"""A fleet in memory, and a shell around it."""

from collections.abc import Callable
from functools import partial

import pytest
import shell_harness
from fake_kube import FakeKube
from shell_harness import FakeControl

from headway_operator.core.plan import Manifest
from headway_operator.shell.reconcile import Reconciler


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def fleet(kube: FakeKube) -> Manifest:
    return kube.put(shell_harness.fleet_manifest())


@pytest.fixture
def make_reconciler(kube: FakeKube, control: FakeControl) -> Callable[..., Reconciler]:
    return partial(shell_harness.make_reconciler, kube, control)
