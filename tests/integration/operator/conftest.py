"""One operator process and one farm of engines for all tests of this folder; each test has its own namespace."""

from collections.abc import Iterator

import operators
import pytest
from apiserver import ApiServer
from operators import Engines, Fleet, Operator


@pytest.fixture(scope="package")
def engines() -> Iterator[Engines]:
    with operators.engines() as farm:
        yield farm


@pytest.fixture(scope="package")
def running_operator(
    apiserver: ApiServer, engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    with operators.operator(apiserver, folder, HEADWAY_ENGINE_CONTROL_PORT=str(engines.port)) as process:
        operators.eventually(process.leads)
        yield process


@pytest.fixture
def fleet(apiserver: ApiServer, namespace: str) -> Fleet:
    return Fleet(apiserver, namespace)
