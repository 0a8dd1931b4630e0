"""Answers that a healthy API server does not give, and lists in pages."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from headway_operator.shell.kube import Failure, KubeError, Ref
from headway_operator.shell.kube_client import KubeClient
from headway_operator.shell.pods import Pod

POD = Ref("Pod", "default", "a")


class Answer:
    """What the transport returns."""

    def __init__(self, status: int, body: str) -> None:
        self.status = status
        self._body = body

    async def read(self) -> bytes:
        return self._body.encode()

    def getheader(self, _: str) -> None:
        return None


class Transport:
    """Answers request after request."""

    def __init__(self, answers: Sequence[tuple[int, str]]) -> None:
        self._answers = list(answers)
        self.paths: list[str] = []

    async def param_serialize(self, method: str, path: str, **_: Any) -> tuple[str, str, Mapping[str, str], None, None]:
        return method, path, {}, None, None

    async def call_api(self, _method: str, path: str, *_: object) -> Answer:
        self.paths.append(path)
        return Answer(*self._answers.pop(0))


def client(*answers: tuple[int, str]) -> tuple[KubeClient, Transport]:
    transport = Transport(answers)
    untyped: Any = transport
    return KubeClient(untyped, 1.0, lambda *_: None), transport


def page(*names: str, more: str = "") -> tuple[int, str]:
    items = [{"metadata": {"name": name}} for name in names]
    body = {"kind": "PodList", "metadata": {"continue": more}, "items": items}
    return 200, json.dumps(body, separators=(",", ":"))


@pytest.mark.parametrize("body", ["", "<html>Please log in</html>", "[]", '{"items":[{"metadata":{}}'])
async def test_a_success_that_is_no_json_object_is_no_empty_fleet(body: str) -> None:
    kube, _ = client((200, body), (200, body))
    with pytest.raises(KubeError) as listed:
        await kube.list("Pod", "default")
    with pytest.raises(KubeError) as got:
        await kube.get(POD)
    assert listed.value.failure is got.value.failure is Failure.RETRYABLE
    assert "cannot be read" in listed.value.message


async def test_pages_are_joined_in_order() -> None:
    kube, transport = client(page("a", "b", more="token"), page("c"))
    found = await kube.list_as(Pod, "Pod", "default", "app=x")
    assert [pod.metadata.name for pod in found] == ["a", "b", "c"]
    assert [path.partition("&continue=")[2] for path in transport.paths] == ["", "token"]
    assert all("labelSelector=app%3Dx" in path for path in transport.paths)


async def test_a_list_without_objects_may_be_null() -> None:
    kube, _ = client((200, '{"metadata":{"resourceVersion":"7"},"items":null}'))
    assert await kube.list("Pod", "default") == ()


async def test_a_continue_token_that_expired_begins_the_list_afresh_once() -> None:
    gone = (410, '{"message":"expired"}')
    kube, _ = client(page("a", more="token"), gone, page("a", "b"))
    assert len(await kube.list("Pod", "default")) == 2
    kube, _ = client(page("a", more="token"), gone, page("a", more="token"), gone)
    with pytest.raises(KubeError, match="expired"):
        await kube.list("Pod", "default")
