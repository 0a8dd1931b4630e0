"""Operator processes and engines for tests against a real API server that has no kubelet.

The tests play kubelet: `make_ready` gives a pod an address and the status that kubelet would report. All engines are
`FakeEngineControl`s on loopback addresses, served by one thread.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from apiserver import ApiServer
from fake_control import FakeEngineControl

T = TypeVar("T")
FLEETS = "/apis/serving.headway.dev/v1alpha1/namespaces/{namespace}/llmdeployments"
START_TIMEOUT_S = 180.0
POLL_S = 0.02


def eventually(check: Callable[[], T], within_s: float = 60.0, every_s: float = POLL_S) -> T:
    """Ask until the answer is true or the assertion holds; the last answer's error otherwise."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            answer = check()
            if answer:
                return answer
            problem: Exception = AssertionError(f"still {answer!r} after {within_s:g} s")
        except (AssertionError, KeyError, IndexError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(every_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Operator:
    """One operator process."""

    process: subprocess.Popen[bytes]
    http_port: int
    log: Path

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.page("/metrics")[1].splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(pair in line for pair in wanted))

    def writes(self) -> float:
        """Requests so far that change objects; the Lease is renewed all the time and does not count."""
        verbs = ("create", "replace", "apply", "patch", "delete")
        count = "headway_operator_api_request_seconds_count"
        total = sum(self.metric(count, verb=verb) for verb in verbs)
        return total - sum(self.metric(count, verb=verb, kind="Lease") for verb in verbs)

    def leads(self) -> bool:
        return self.process.poll() is None and self.metric("headway_operator_leader") == 1.0

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def operator(
    server: ApiServer, folder: Path, name: str = "op-1", lease_namespace: str = "default", **env: str
) -> Iterator[Operator]:
    """Start an operator process; it is killed at the end if it still runs."""
    port, log = free_port(), folder / f"{name}.log"
    environment = {
        **os.environ,
        "KUBECONFIG": str(server.kubeconfig),
        "HEADWAY_NAMESPACE": lease_namespace,
        "HEADWAY_POD_NAME": name,
        "HEADWAY_ENGINE_IMAGE": "example.test/engine:1",
        "HEADWAY_HTTP_PORT": str(port),
        "HEADWAY_LOG_LEVEL": "INFO",
        **env,
    }
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "headway_operator"], env=environment, stdout=sink, stderr=subprocess.STDOUT
        ) as process,
    ):
        started = Operator(process, port, log)
        try:
            eventually(lambda: started.page("/readyz")[0] == 200 or process.poll() is not None, START_TIMEOUT_S)
            yield started
        finally:
            if process.poll() is None:
                process.kill()


@dataclass
class Engines:
    """Fake engines by loopback address, all on one port."""

    port: int
    loop: asyncio.AbstractEventLoop
    by_address: dict[str, FakeEngineControl] = field(default_factory=dict)
    servers: list[Any] = field(default_factory=list)

    def start(self) -> tuple[str, FakeEngineControl]:
        """A new engine on an address of its own."""
        address, engine = f"127.0.0.{len(self.by_address) + 2}", FakeEngineControl()
        serving = asyncio.run_coroutine_threadsafe(engine.serve(f"{address}:{self.port}"), self.loop)
        self.servers.append(serving.result(60)[0])
        self.by_address[address] = engine
        return address, engine


@contextmanager
def engines() -> Iterator[Engines]:
    """A thread that serves fake engines."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="engines")
    thread.start()
    farm = Engines(free_port(), loop)
    try:
        yield farm
    finally:
        for server in farm.servers:
            asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Fleet:
    """One LLMDeployment and its children, as the API server sees them."""

    server: ApiServer
    namespace: str
    name: str = "demo"

    @property
    def path(self) -> str:
        return f"{FLEETS.format(namespace=self.namespace)}/{self.name}"

    def child_path(self, kind: str, name: str = "") -> str:
        prefix = "/apis/policy/v1" if kind == "poddisruptionbudgets" else "/api/v1"
        return f"{prefix}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def create(self, **spec: Any) -> None:
        body = {
            "apiVersion": "serving.headway.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "model": {"source": {"packed": {"path": "/models/m.gguf"}}},
                "engine": {"device": "cpu", "capacity": {"maxNumSeqs": 8, "maxNumBatchedTokens": 256}},
                "replicas": 2,
                **spec,
            },
        }
        self.server.api.create(FLEETS.format(namespace=self.namespace), body).ok()

    def get(self) -> Any:
        return self.server.api.get(self.path).ok()

    def condition(self, kind: str) -> Any:
        return {entry["type"]: entry for entry in self.get()["status"]["conditions"]}[kind]

    def pods(self) -> list[Any]:
        selector = f"?labelSelector=serving.headway.dev/fleet={self.name}"
        return list(self.server.api.get(self.child_path("pods") + selector).ok()["items"])

    def children(self) -> dict[str, list[str]]:
        """Names of the children by plural, of those that carry our label."""
        selector = "?labelSelector=app.kubernetes.io/managed-by=headway-operator"
        kinds = ("serviceaccounts", "services", "poddisruptionbudgets", "pods")
        found = {kind: self.server.api.get(self.child_path(kind) + selector).ok()["items"] for kind in kinds}
        return {kind: sorted(item["metadata"]["name"] for item in items) for kind, items in found.items()}

    def make_ready(self, pod: str, address: str) -> None:
        """What kubelet reports of an engine that has loaded its model."""
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": "engine",
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "image": "example.test/engine:1",
                    "imageID": "",
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                }
            ],
        }
        self.server.api.merge(self.child_path("pods", f"{pod}/status"), {"status": status}).ok()
