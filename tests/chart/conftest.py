"""The chart's tests need a helm binary: the user's, or the one the local cluster built."""

import manifests
import pytest


@pytest.fixture(autouse=True, scope="session")
def _helm() -> None:
    try:
        manifests.helm()
    except SystemExit as missing:
        pytest.skip(str(missing))
