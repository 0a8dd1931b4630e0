"""The real core and the real client against a real API server, with the process dying before and after every write."""

import asyncio
import copy
from typing import Any, TypeVar

import headway_pytest
import pytest
from apiserver import ApiServer
from fake_kube import CrashError
from operators import Fleet
from shell_harness import FakeControl

from headway_operator.core.decide import decide
from headway_operator.core.observed import Defaults
from headway_operator.core.plan import Manifest
from headway_operator.shell.engines import Engines
from headway_operator.shell.events import EventRecorder
from headway_operator.shell.execute import Executor
from headway_operator.shell.kube import FleetKey, Ref
from headway_operator.shell.kube_client import KubeClient
from headway_operator.shell.metrics import Metrics
from headway_operator.shell.reconcile import Reconciler, Shell

pytestmark = pytest.mark.apiserver

PASSES = 8
T = TypeVar("T")


class CrashingClient:
    """Passes everything on; dies before or after one write."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.writes = 0
        self.crash_at: tuple[str, int] | None = None

    async def get(self, ref: Ref) -> Manifest:
        return await self._client.get(ref)

    async def list(self, kind: str, namespace: str, selector: str = "") -> tuple[Manifest, ...]:
        return await self._client.list(kind, namespace, selector)

    async def list_as(self, form: type[T], kind: str, namespace: str, selector: str = "") -> tuple[T, ...]:
        return await self._client.list_as(form, kind, namespace, selector)

    async def create(self, manifest: Manifest) -> Manifest:
        return await self._write(self._client.create, manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        return await self._write(self._client.replace, manifest)

    async def apply(self, manifest: Manifest, subresource: str = "") -> Manifest:
        return await self._write(self._client.apply, manifest, subresource)

    async def patch(self, ref: Ref, patch: Manifest) -> Manifest:
        return await self._write(self._client.patch, ref, patch)

    async def delete(self, ref: Ref, uid: str, grace_s: int | None = None) -> None:
        await self._write(self._client.delete, ref, uid, grace_s)

    async def _write(self, method: Any, *args: Any) -> Any:
        number, self.writes = self.writes, self.writes + 1
        if self.crash_at == ("before", number):
            raise CrashError
        answer = await method(*args)
        if self.crash_at == ("after", number):
            raise CrashError
        return answer


def process(kube: CrashingClient) -> Reconciler:
    """A process that remembers nothing."""
    events = EventRecorder(kube, "op-1", asyncio.get_running_loop().time)
    executor = Executor(kube, FakeControl(), events)
    return Reconciler(Shell(kube, Engines(1, 0.5), events, executor, Metrics(), Defaults("engine:1")), decide)


async def passes(kube: CrashingClient, fleet: Fleet) -> None:
    for _ in range(PASSES):
        try:
            await process(kube)(FleetKey(fleet.namespace, fleet.name))
        except CrashError:
            continue


def end_state(fleet: Fleet) -> dict[str, Any]:
    """Specs of the children and the status, without what differs from run to run."""
    state: dict[str, Any] = {"children": fleet.children()}
    answer = fleet.server.api.get(fleet.path)
    if answer.status == 404:
        return state
    manifest = copy.deepcopy(answer.body)
    state["finalizers"] = manifest["metadata"]["finalizers"]
    status = manifest["status"]
    state["conditions"] = {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
    state["counts"] = {name: value for name, value in status.items() if isinstance(value, int)}
    state["pods"] = [
        (pod["metadata"]["name"], pod["metadata"]["labels"], pod["spec"]["containers"][0]) for pod in fleet.pods()
    ]
    return state


async def story(server: ApiServer, crash_at: tuple[str, int] | None) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Create, settle, delete, settle: both end states and the number of writes."""
    fleet = Fleet(server, headway_pytest.make_namespace(server))
    client = await KubeClient.connect(10.0, lambda *_: None, str(server.kubeconfig))
    kube = CrashingClient(client)
    kube.crash_at = crash_at
    try:
        await asyncio.to_thread(fleet.create)
        await passes(kube, fleet)
        created = await asyncio.to_thread(end_state, fleet)
        await asyncio.to_thread(fleet.server.api.delete, fleet.path)
        await passes(kube, fleet)
        return created, await asyncio.to_thread(end_state, fleet), kube.writes
    finally:
        await client.close()


@pytest.mark.timeout(1200)
async def test_a_crash_before_or_after_any_write_leads_to_the_same_end_states(apiserver: ApiServer) -> None:
    created, deleted, writes = await story(apiserver, None)
    assert len(created["pods"]) == 2
    assert deleted["children"]["pods"] == []
    assert "finalizers" not in deleted
    assert writes >= 12
    for number in range(writes):
        for side in ("before", "after"):
            again, gone, _ = await story(apiserver, (side, number))
            assert again == created, f"crash {side} write {number}"
            assert gone == deleted, f"crash {side} write {number}"
