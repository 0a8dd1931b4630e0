import pytest
from apiserver import ApiServer


@pytest.fixture
def fleets(namespace: str) -> str:
    """The path of the test's own collection of LLMDeployments."""
    return f"/apis/serving.headway.dev/v1alpha1/namespaces/{namespace}/llmdeployments"


@pytest.fixture(autouse=True)
def _served(apiserver: ApiServer) -> None:
    """Every test here needs the CRD."""
