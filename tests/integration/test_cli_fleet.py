"""The `headway` command finds a fleet by itself: a stand-in API server lists it and forwards to a real engine server."""

import asyncio
import contextlib
import json
import os
import re
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from fake_async_engine import FakeAsyncEngine
from fleet_world import spec

from headway_engine.server.grpc_ports import GrpcPorts
from headway_engine.server.lifecycle import Lifecycle
from headway_engine.settings import parse


@dataclass
class FakeApi:
    """Two list paths and the portforward subresource; `fleets` and `pods` are what it lists."""

    engine_port: int = 0
    control_port: int = 0
    url: str = ""
    fleets: list[dict[str, object]] = field(default_factory=list)
    fleets_later: list[dict[str, object]] | None = None  # what it lists from the second time on
    pods: list[dict[str, object]] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)

    async def list_fleets(self, request: web.Request) -> web.Response:
        listed, self.fleets = self.fleets, self.fleets_later or self.fleets
        return web.json_response({"items": listed})

    async def list_pods(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "serving.headway.dev/fleet=chat"
        return web.json_response({"items": self.pods})

    async def list_autoscalers(self, request: web.Request) -> web.Response:
        targets = [{"kind": "Deployment", "name": "chat"}, {"kind": "LLMDeployment", "name": "chat"}]
        items = [
            {"metadata": {"name": f"hpa-{index}"}, "spec": {"scaleTargetRef": target}}
            for index, target in enumerate(targets)
        ]
        return web.json_response({"items": items})

    async def list_events(self, request: web.Request) -> web.Response:
        assert "involvedObject.uid=uid-chat" in request.query["fieldSelector"]
        times = ("2026-01-01T00:00:01.100000Z", "2026-01-01T00:00:02.900000Z")
        items = [{"metadata": {}, "eventTime": time, "reason": "Unschedulable", "message": "no room"} for time in times]
        return web.json_response({"items": items})

    async def forward(self, request: web.Request) -> web.WebSocketResponse:
        self.forwarded.append(request.match_info["pod"])
        if request.match_info["pod"] in self.unreachable:
            raise web.HTTPNotFound(text="pod not found")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + struct.pack("<H", int(request.query["ports"])))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.control_port if request.query["ports"] == "50052" else self.engine_port
        )

        async def back() -> None:
            while data := await reader.read(65536):
                await socket.send_bytes(b"\0" + data)

        task = asyncio.create_task(back())
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                assert message.data[0] == 0
                writer.write(message.data[1:])
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
        writer.close()
        return socket


def fleet(name: str, ready: str = "True", message: str = "") -> dict[str, object]:
    condition = {"type": "Ready", "status": ready, "reason": "ImagePull", "message": message}
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"},
        "spec": {"slo": {"workloadClass": "interactive"}},
        "status": {"readyReplicas": 1, "slo": {"ttftObserved": "340ms"}, "conditions": [condition]},
    }


def pod(name: str, ready: str = "True", serving: str = "true") -> dict[str, object]:
    labels = {"serving.headway.dev/serving": serving}
    return {
        "metadata": {"namespace": "default", "name": name, "labels": labels, "uid": name},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    engine = FakeAsyncEngine(auto=True)
    settings = parse(["--model", "/m/fake.gguf", "--host", "127.0.0.1", "--port", "0", "--control-port", "0"], {})
    lifecycle = Lifecycle()
    ports = GrpcPorts(settings, lifecycle)
    await ports.start()
    lifecycle.loaded(engine)
    api = FakeApi(engine_port=ports.data_port, control_port=ports.control_port)
    app = web.Application()
    app.router.add_get("/apis/serving.headway.dev/v1alpha1/llmdeployments", api.list_fleets)
    app.router.add_get("/apis/serving.headway.dev/v1alpha1/namespaces/default/llmdeployments", api.list_fleets)
    app.router.add_get("/api/v1/namespaces/default/pods", api.list_pods)
    app.router.add_get("/api/v1/namespaces/default/pods/{pod}/portforward", api.forward)
    app.router.add_get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", api.list_autoscalers)
    app.router.add_get("/api/v1/namespaces/default/events", api.list_events)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()
    await ports.stop(0)
    await engine.stop()


async def headway(api_url: str, tmp_path: Path, *arguments: str) -> tuple[int | None, str, str]:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"""apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "{api_url}"}}}}]
users: [{{name: me, user: {{}}}}]
"""
    )
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "headway_cli.main", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_generate_reaches_the_only_fleet_through_its_first_serving_pod(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [fleet("chat")]
    api.pods = [pod("chat-a-1"), pod("chat-a-0", serving="false"), pod("chat-a-2", ready="False"), pod("chat-a-3")]
    code, out, err = await headway(api.url, tmp_path, "generate", "hi", "--max-tokens", "3")
    assert (code, out, err) == (0, "t1 t2 t3 \n", "")
    assert api.forwarded == ["chat-a-1"]


async def test_bench_reaches_every_serving_pod(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [fleet("chat"), fleet("code")]
    api.pods = [pod("chat-a-0"), pod("chat-a-1")]
    flags = ("--rate", "20", "--duration", "0.5", "--max-input", "50", "--max-output", "8", "--warmup", "0")
    code, out, err = await headway(api.url, tmp_path, "bench", "online", "--fleet", "chat", *flags)
    assert (code, err) == (0, "")
    assert " OK)" in out
    assert set(api.forwarded) == {"chat-a-0", "chat-a-1"}


async def test_top_shows_the_fleets_and_the_engines_behind_them(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [fleet("chat")]
    api.pods = [pod("chat-a-0"), pod("chat-a-1")]
    api.unreachable = {"chat-a-1"}
    code, out, err = await headway(api.url, tmp_path, "top", "--iterations", "2", "--interval", "0.1")
    assert (code, err) == (0, "")
    pictures = re.split(r"^Fleets\s*$", out, flags=re.MULTILINE)[1:]
    assert len(pictures) == 2
    rows = {line.split()[0]: line.split()[1:] for line in pictures[1].splitlines() if line.strip()}
    assert rows["default/chat"][:2] == ["interactive", "1"]
    assert "340ms" in rows["default/chat"]
    assert rows["chat-a-0"][:3] == ["0", "0", "0%"], "running, waiting, KV cache"
    assert all(limit.isdigit() and int(limit) > 0 for limit in rows["chat-a-0"][-2:]), "its two live limits"
    assert rows["chat-a-1"][:2] == ["no", "answer:"], "it keeps its row, with the reason"


async def test_diagnose_asks_the_engines_and_ends_with_1_when_it_finds_something(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [{**fleet("chat"), "spec": spec(replicas=2)}]
    api.pods = [pod("chat-a-0"), pod("chat-a-1")]
    api.unreachable = {"chat-a-1"}
    code, out, err = await headway(api.url, tmp_path, "diagnose", "chat", "--seconds", "1")
    assert (code, err) == (1, "")
    assert out.startswith("default/chat\n  1 of 2 engines answer, 0 requests in 1 s")
    assert "WARNING SomeEnginesSilent\n  the engine of pod chat-a-1 does not answer" in out
    assert "WARNING RivalWriter\n  HorizontalPodAutoscaler hpa-1 targets this fleet" in out
    assert "Note: no request ran, waited or arrived in 1 s" in out
    assert out.endswith(
        "  2026-01-01T00:00:02Z  Unschedulable: no room\n  2026-01-01T00:00:01Z  Unschedulable: no room\n"
    )


async def test_diagnose_of_a_fleet_that_is_healthy_once_its_engines_were_asked_ends_with_0(
    api: FakeApi, tmp_path: Path
) -> None:
    external = spec(replicas=1, scaling={"mode": "External"})
    api.fleets = [{**fleet("chat", "False", "no engine is ready"), "spec": external}]
    api.fleets_later = [{**fleet("chat"), "spec": external}]
    api.pods = [pod("chat-a-0")]
    code, out, err = await headway(api.url, tmp_path, "diagnose", "--seconds", "1", "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["healthy"], json.loads(out)["findings"]) == (True, [])


async def test_no_ready_pod_gives_the_fleets_own_reason(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [fleet("chat", "False", "image engine:v9 cannot be pulled")]
    api.pods = [pod("chat-a-0", ready="False")]
    code, out, err = await headway(api.url, tmp_path, "generate", "hi")
    assert (code, out) == (1, "")
    expected = "fleet default/chat has no ready pod: ImagePull: image engine:v9 cannot be pulled"
    assert err == f"headway: {expected}\n"


async def test_several_fleets_are_an_error_that_lists_them(api: FakeApi, tmp_path: Path) -> None:
    api.fleets = [fleet("code"), fleet("chat")]
    code, _, err = await headway(api.url, tmp_path, "generate", "hi")
    assert code == 1
    assert "several fleets match: default/chat, default/code" in err


async def test_an_api_server_that_is_down_is_one_line(tmp_path: Path) -> None:
    code, _, err = await headway("http://127.0.0.1:1", tmp_path, "generate", "hi")
    assert code == 1
    assert err.startswith("headway: the API server http://127.0.0.1:1 cannot be reached")
    assert err.count("\n") == 1
