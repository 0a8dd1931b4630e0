"""The gateway as the how-to runs it: the page's own manifests, an OpenAI client, a real model."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any

import openai
import pytest
import steps
import yaml
from fleets import SERVES_S, SOON_S, apply, manifest
from load_client import ANSWER_S, endpoints
from openai.types import Completion

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

NAME = "smollm2"
LONG = 512  # tokens of an answer that outlasts a rollout of the gateway
CLIENTS = 40  # each asks one at a time: at most the capacity of 16 run in the pod that serves, the others wait
PAGE = steps.ROOT / "docs/how-to/use-an-openai-client.md"


def page_objects(namespace: str) -> list[dict[str, Any]]:
    """The manifests of the page for this namespace, with the image that the operator runs."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    operator = steps.get("deployment", "-n", steps.SYSTEM_NAMESPACE)["items"][0]
    image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    text = block.replace("registry.example.com/headway-operator:0.1.0", image)
    return list(yaml.safe_load_all(text.replace("demo", namespace)))


def gateway(namespace: str, *flags: str) -> str:
    """Run the page's gateway, with these flags beside its own; returns its URL."""
    for one in page_objects(namespace):
        if one["kind"] == "Deployment":
            one["spec"]["template"]["spec"]["containers"][0]["command"] += flags
        steps.run(["kubectl", "apply", "--server-side", "-f", "-"], stdin=json.dumps(one))
    rollout = ["kubectl", "rollout", "status", "deployment/openai", "-n", namespace, f"--timeout={SERVES_S:.0f}s"]
    steps.run(rollout, timeout_s=SERVES_S + 30)
    [pod] = steps.get("pods", "-n", namespace, "-l", "app=openai")["items"]
    return f"http://{pod['status']['podIP']}:8000"


def gateways() -> list[str]:
    """URLs of the pods of the chart's gateway."""
    pods = steps.get("pods", "-n", steps.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=headway-gateway")["items"]
    return [f"http://{pod['status'].get('podIP')}:8000" for pod in pods]


def chart_gateway() -> str:
    """URL of the chart's gateway, once it answers for the fleet.

    Its pods are ready before: a fleet may come after them, and kube-proxy writes the rules of a Service a moment after its
    pods are ready. Until then somebody else may answer for its address, where there is a way out of the cluster.
    """
    service = steps.get("service", "headway-gateway", "-n", steps.SYSTEM_NAMESPACE)
    url = f"http://{service['spec']['clusterIP']}"
    steps.wait_until("the gateways", lambda: all(models(one) == [NAME] for one in gateways()), timeout_s=SOON_S)
    steps.wait_until("their Service", lambda: models(url) == [NAME], timeout_s=SOON_S)
    return url


def models(url: str) -> list[str]:
    """What is served there; nothing where nobody answers, or somebody else."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=SOON_S) as answer:
            return [model["id"] for model in json.load(answer)["data"]]
    except (OSError, ValueError):
        return []


def ready(url: str) -> bool:
    """Whether a gateway says so. One that drains does not, and does not listen for ever."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=SOON_S):
            return True
    except OSError:
        return False


def metric(url: str, name: str) -> float:
    """A series of a process, summed over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=SOON_S) as answer:
        lines = str(answer.read(), "utf-8").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def test_an_openai_client_gets_a_streamed_answer_from_a_fleet(served: tuple[str, str]) -> None:
    _, namespace = served
    answer = asyncio.run(_ask(f"{gateway(namespace)}/v1"))
    assert "Paris" in answer


def test_a_heap_of_batch_work_is_shared_with_a_replica_that_starts_later(namespace: str) -> None:
    scaling = {"mode": "Auto", "minReplicas": 1, "maxReplicas": 2}
    fleet = manifest(NAME, slo={"workloadClass": "batch", "deadlineSeconds": 3600}, scaling=scaling)
    apply(namespace, fleet)
    steps.wait_ready(NAME, namespace)
    endpoints(NAME, namespace)
    url = gateway(namespace, f"--request-timeout-seconds={2 * ANSWER_S:g}")
    apply(namespace, {**fleet, "spec": {**fleet["spec"], "scaling": {**scaling, "minReplicas": 2}}})
    count = asyncio.run(_heap(url))
    pods = [f"http://{address.removesuffix(':50051')}:8080" for address in endpoints(NAME, namespace, 2)]
    finished = [metric(pod, "headway_engine_class_requests_finished_total") for pod in pods]
    assert sum(finished) == sum(metric(pod, "headway_engine_requests_received_total") for pod in pods) == count
    assert min(finished) > 0
    assert sum(metric(pod, "headway_engine_class_requests_late_total") for pod in pods) == 0


def test_the_charts_gateway_answers_while_its_pods_are_replaced(served: tuple[str, str]) -> None:
    name, namespace = served
    chart = ["helm", "upgrade", steps.RELEASE, str(steps.ROOT / "charts/headway"), "-n", steps.SYSTEM_NAMESPACE]
    chart += ["--reset-then-reuse-values", "--wait", f"--timeout={SERVES_S:.0f}s"]
    engines = f"gateway.engines={{{name}-engines.{namespace}.svc:50051}}"
    steps.run([*chart, "--set", engines], timeout_s=SERVES_S + 30)
    try:
        url = chart_gateway()
        assert "Paris" in asyncio.run(_ask(f"{url}/v1"))
        asyncio.run(_asked_all_along(url, ["rollout", "restart", "deployment/headway-gateway"]))
    finally:
        steps.run([*chart, "--set", "gateway.engines=null"], timeout_s=SERVES_S + 30)


async def _asked_all_along(url: str, change: list[str]) -> None:
    """Every answer is whole while a change goes through: long ones that began before, and those to clients that go on asking.

    One of these keeps its connection. The long answers keep the old pods there, so it meets them while they go away.
    """
    over = asyncio.Event()
    lengths: dict[str, list[int]] = {"new": [], "kept": []}
    asking: list[asyncio.Task[None]] = []

    async def client(connection: str, connected: Callable[[], AbstractAsyncContextManager[openai.AsyncOpenAI]]) -> None:
        while not over.is_set():
            async with connected() as api:
                lengths[connection].append(await _length(api, "Once", 8))

    async def answers(what: str) -> None:
        """Three more to each client; where one has failed nothing else will come of it."""
        wanted = {connection: len(those) + 3 for connection, those in lengths.items()}

        def there() -> bool:
            return any(one.done() for one in asking) or all(len(lengths[one]) >= wanted[one] for one in lengths)

        await asyncio.to_thread(steps.wait_until, what, there, timeout_s=SERVES_S)

    kubectl = ["kubectl", "-n", steps.SYSTEM_NAMESPACE]
    status = [*kubectl, "rollout", "status", change[-1], f"--timeout={SERVES_S:.0f}s"]
    old = await asyncio.to_thread(gateways)
    async with AsyncExitStack() as stack:
        kept, *others = [await stack.enter_async_context(_client(one)) for one in (url, *old)]
        async with asyncio.TaskGroup() as group:
            long = [group.create_task(_rest(await _begun(one))) for one in others]
            asking.append(group.create_task(client("new", lambda: _client(url))))
            asking.append(group.create_task(client("kept", lambda: nullcontext(kept))))
            await answers("answers before")
            await asyncio.to_thread(steps.run, [*kubectl, *change])
            await asyncio.to_thread(steps.run, status, timeout_s=SERVES_S + 30)
            await asyncio.to_thread(
                steps.wait_until, "the old ones to go", lambda: not any(map(ready, old)), timeout_s=SOON_S
            )
            await answers("answers afterwards")
            over.set()
    assert [one.result() for one in long] == [LONG] * len(old)
    assert set(lengths["new"] + lengths["kept"]) == {8}
    gone = "the old pods gone"  # when nothing is in flight there any more
    await asyncio.to_thread(steps.wait_until, gone, lambda: not set(old) & set(gateways()), timeout_s=SERVES_S)


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=ANSWER_S)


async def _begun(api: openai.AsyncOpenAI) -> "openai.AsyncStream[Completion]":
    """A long answer, from its first token on."""
    return await api.completions.create(
        model=NAME,
        prompt="Once upon a time",
        max_tokens=LONG,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )


async def _rest(answer: "openai.AsyncStream[Completion]") -> int:
    """Its tokens, when it has ended."""
    *_, last = [piece async for piece in answer]
    assert last.usage is not None
    return last.usage.completion_tokens


async def _heap(url: str) -> int:
    """Batch requests, some of which always wait, until the gateway has moved one; returns how many were answered."""
    moved = asyncio.Event()

    async def client() -> list[int]:
        """Ask again when it was answered; returns the lengths of the answers."""
        lengths = []
        while not moved.is_set():
            lengths.append(await _length(api, "Once upon a time", 64))
        return lengths

    def a_move() -> bool:
        return metric(url, "headway_gateway_requests_moved_total") > 0

    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=2 * ANSWER_S) as api,
        asyncio.TaskGroup() as group,
    ):
        clients = [group.create_task(client()) for _ in range(CLIENTS)]
        await asyncio.to_thread(steps.wait_until, "a move", a_move, timeout_s=SERVES_S)
        moved.set()
    lengths = [length for one in clients for length in one.result()]
    assert set(lengths) == {64}
    return len(lengths)


async def _length(api: openai.AsyncOpenAI, prompt: str, tokens: int) -> int:
    """Tokens of an answer that may have so many and does not end before."""
    answer = await api.completions.create(model=NAME, prompt=prompt, max_tokens=tokens, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    return answer.usage.completion_tokens


async def _ask(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [NAME]
        question = {"role": "user", "content": "The capital of France is"}
        with pytest.raises(openai.BadRequestError, match="x-headway-class must be one of realtime, interactive, batch"):
            await client.chat.completions.create(
                model=NAME, messages=[question], extra_headers={"x-headway-class": "urgent"}
            )
        stream = await client.chat.completions.create(
            model=NAME,
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                question,
            ],
            max_tokens=16,
            temperature=0,
            stream=True,
        )
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])
