"""The client against a real API server: every verb, every failure class."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from apiserver import ApiServer
from operators import Fleet

from headway_operator.core.plan import Json
from headway_operator.shell import kube_client
from headway_operator.shell.kube import Failure, KubeError, Ref, text_at
from headway_operator.shell.kube_client import KubeClient

pytestmark = pytest.mark.apiserver

Seen = list[tuple[str, str, int]]


@pytest.fixture
def seen() -> Seen:
    return []


@pytest_asyncio.fixture
async def client(apiserver: ApiServer, seen: Seen) -> AsyncIterator[KubeClient]:
    connected = await KubeClient.connect(
        10.0, lambda verb, kind, status, _: seen.append((verb, kind, status)), str(apiserver.kubeconfig)
    )
    yield connected
    await connected.close()


def account(namespace: str, name: str = "a", **metadata: Json) -> dict[str, Json]:
    return {"kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace, **metadata}}


async def failure_of(work: Any) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await work
    return caught.value


async def test_an_applied_object_is_read_listed_patched_and_deleted(client: KubeClient, namespace: str) -> None:
    ref = Ref("ServiceAccount", namespace, "a")
    applied = await client.apply(account(namespace, labels={"color": "red"}))
    assert await client.get(ref) == applied
    await client.apply(account(namespace, "b"))
    assert [text_at(item, "metadata", "name") for item in await client.list("ServiceAccount", namespace, "color")] == [
        "a"
    ]
    patched = await client.patch(ref, {"metadata": {"uid": text_at(applied, "metadata", "uid"), "labels": None}})
    assert text_at(patched, "metadata", "labels", "color") == ""
    await client.delete(ref, text_at(applied, "metadata", "uid"))
    assert (await failure_of(client.get(ref))).failure is Failure.NOT_FOUND


async def test_any_text_can_be_applied(client: KubeClient, namespace: str) -> None:
    texts = [
        "\U0001f600",
        "a\U0010ffff",
        "\u6a21\u578b",
        "\u2028 \x85 \x7f \ufeff \uffff",
        "\t\n\r\x00",
        r"\ud83d\ude00",
        "\\\U0001f600",
    ]
    applied = await client.apply(account(namespace, annotations={str(index): text for index, text in enumerate(texts)}))
    assert [text_at(applied, "metadata", "annotations", str(index)) for index in range(len(texts))] == texts


async def test_an_identical_apply_changes_nothing(client: KubeClient, namespace: str) -> None:
    first = await client.apply(account(namespace))
    assert await client.apply(account(namespace)) == first


async def test_a_list_longer_than_a_page_is_complete(
    client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setattr(kube_client, "PAGE_LIMIT", 2)
    for name in "abcde":
        await client.apply(account(namespace, name))
    items = await client.list("ServiceAccount", namespace)
    assert [text_at(item, "metadata", "name") for item in items] == list("abcde")
    assert seen.count(("list", "ServiceAccount", 200)) == 3


async def test_preconditions_that_fail_are_conflicts(client: KubeClient, namespace: str) -> None:
    ref = Ref("ServiceAccount", namespace, "a")
    first = await client.apply(account(namespace))
    version = text_at(first, "metadata", "resourceVersion")
    await client.apply(account(namespace, labels={"color": "red"}))
    wrong = "00000000-0000-0000-0000-000000000000"
    attempts = [
        client.delete(ref, wrong),
        client.patch(ref, {"metadata": {"uid": wrong}}),
        client.patch(ref, {"metadata": {"resourceVersion": version, "labels": {"color": "blue"}}}),
        client.apply(account(namespace, uid=wrong)),
        client.create(account(namespace)),
        client.replace(account(namespace, resourceVersion=version)),
    ]
    for attempt in attempts:
        assert (await failure_of(attempt)).failure is Failure.CONFLICT


async def test_a_field_that_the_crd_lacks_is_permanent_although_it_is_answered_500(
    client: KubeClient, fleet: Fleet
) -> None:
    fleet.create()
    status: dict[str, Json] = {
        "kind": "LLMDeployment",
        "metadata": {"name": fleet.name, "namespace": fleet.namespace},
        "status": {"fromTheFuture": 1},
    }
    error = await failure_of(client.apply(status, subresource="status"))
    assert (error.failure, error.status) == (Failure.PERMANENT, 500)
    assert "upgrade the CRD" in error.message


async def test_an_invalid_object_is_permanent_and_names_the_field(client: KubeClient, namespace: str) -> None:
    service: dict[str, Json] = {
        "kind": "Service",
        "metadata": {"name": "a", "namespace": namespace},
        "spec": {"ports": [{"port": 0}]},
    }
    error = await failure_of(client.apply(service))
    assert (error.failure, error.status) == (Failure.PERMANENT, 422)
    assert "spec.ports[0].port" in error.message


async def test_nobody_listening_is_retryable(apiserver: ApiServer, seen: Seen, tmp_path: Path) -> None:
    lost = tmp_path / "kubeconfig"
    lost.write_text(apiserver.kubeconfig.read_text().replace(apiserver.api.url, "https://127.0.0.1:9"))
    client = await KubeClient.connect(2.0, lambda verb, kind, status, _: seen.append((verb, kind, status)), str(lost))
    error = await failure_of(client.get(Ref("Pod", "default", "a")))
    await client.close()
    assert error.failure is Failure.RETRYABLE
    assert seen == [("get", "Pod", 0)]


async def test_without_credentials_one_sentence_says_so(tmp_path: Path) -> None:
    error = await failure_of(KubeClient.connect(2.0, lambda *_: None, str(tmp_path / "nothing")))
    assert error.message.startswith("no service account and no usable kubeconfig")
