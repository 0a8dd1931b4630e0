"""What reading a fleet costs the operator: CPU of `read_fleet` over HTTP, beside parsing the same answers whole.

A second process answers like an API server: a fleet of pods as the operator creates them, with what kubelet and the API
server add, in pages. Prints one JSON object with the least CPU seconds of this process: `read_s` is a pass's read,
`parsed_s` receives the same pages and parses them with the standard library, `ratio` is read over parsed.
Usage: `python benchmarks/bench_read.py [--pods 5000] [--passes 5]`.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Awaitable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web
from kubernetes.aio import client as k8s

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

from fleet_world import World, spec  # noqa: E402  the tests' support is no package

from headway_operator.shell.kube import FleetKey, collection_path  # noqa: E402
from headway_operator.shell.kube_client import PAGE_LIMIT, KubeClient  # noqa: E402
from headway_operator.shell.observe import read_fleet  # noqa: E402

KEY = FleetKey("default", "chat")
SINCE = "2026-01-01T00:00:00Z"
CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.pods), daemon=True)
    server.start()
    print(json.dumps(asyncio.run(measure(ours, options.passes)), indent=2))
    server.terminate()


async def measure(server: Connection, passes: int) -> dict[str, float]:
    """Both ways in turn, so that a noisy moment meets both."""
    url, megabytes = server.recv()
    kube = KubeClient(k8s.ApiClient(k8s.Configuration(host=url)), 30.0, lambda *_: None)
    read, parsed = [], []
    async with ClientSession(url) as session:
        for _ in range(passes):
            read.append(await cpu_s(read_fleet(kube, KEY)))
            parsed.append(await cpu_s(parse(session)))
    reads = await read_fleet(kube, KEY)
    await kube.close()
    if reads is None:
        raise SystemExit("the server knows no fleet")
    return {
        "pods": len(reads.pods),
        "megabytes": megabytes,
        "read_s": round(min(read), 4),
        "parsed_s": round(min(parsed), 4),
        "ratio": round(min(read) / min(parsed), 2),
    }


async def cpu_s(work: Awaitable[object]) -> float:
    """CPU time of this process until it is done."""
    began = time.process_time()
    await work
    return time.process_time() - began


async def parse(session: ClientSession) -> None:
    """Receive every page and parse it whole."""
    token = ""
    while True:
        query = {"limit": str(PAGE_LIMIT)} | ({"continue": token} if token else {})
        async with session.get(collection_path("Pod", KEY.namespace), params=query) as response:
            token = json.loads(await response.text())["metadata"]["continue"]
        if not token:
            return


def serve(parent: Connection, count: int) -> None:
    """The API server's process: tells its address and serves until it is ended."""
    asyncio.run(Server(count).run(parent))


class Server:
    """Answers LISTs of pods in pages, and GETs of the fleet."""

    def __init__(self, count: int) -> None:
        self.pods = pods(count)

    async def run(self, parent: Connection) -> None:
        """Serve until the process is ended."""
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/default/pods", self.list)
        app.router.add_get("/apis/serving.headway.dev/v1alpha1/namespaces/default/llmdeployments/chat", self.fleet)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        parent.send((f"http://{host}:{port}", round(len(compact(self.pods)) / 1e6, 1)))
        await asyncio.Event().wait()

    async def list(self, request: web.Request) -> web.Response:
        """One page; the continue token is the number of its first pod."""
        start = int(request.query.get("continue") or 0)
        end = start + int(request.query["limit"])
        metadata = {"resourceVersion": "1", "continue": str(end) if end < len(self.pods) else ""}
        page = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": self.pods[start:end]}
        return web.json_response(page, dumps=compact)

    async def fleet(self, _: web.Request) -> web.Response:
        """The LLMDeployment."""
        return web.json_response({"metadata": {"name": "chat", "uid": "u-1"}, "spec": {}}, dumps=compact)


def pods(count: int) -> list[dict[str, Any]]:
    """Pods of a running fleet, as an API server lists them."""
    world = World(spec(), boot_s=1.0)
    world.step(1.0)
    text = json.dumps(next(iter(world.pods.values())).manifest)
    return [running(json.loads(text), number) for number in range(count)]


def running(pod: dict[str, Any], number: int) -> dict[str, Any]:
    """What the API server and kubelet add to a pod."""
    name = f"chat-abc123-{number}"
    written = {"manager": "headway-operator", "operation": "Apply", "time": SINCE, "fieldsV1": fields(pod)}
    own = pod["metadata"] | {"name": name, "uid": f"u-{number}", "resourceVersion": "1", "creationTimestamp": SINCE}
    state = {"name": "engine", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": SINCE}}}
    status = {
        "phase": "Running",
        "podIP": f"10.{number // 65536}.{number // 256 % 256}.{number % 256}",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": SINCE} for kind in CONDITIONS],
        "containerStatuses": [state],
    }
    return {"metadata": {**own, "managedFields": [written]}, "spec": pod["spec"] | {"nodeName": "n"}, "status": status}


def fields(value: object) -> dict[str, Any]:
    """The fields that somebody has set, in the form of `managedFields`."""
    return {f"f:{key}": fields(inner) for key, inner in value.items()} if isinstance(value, dict) else {}


def compact(value: object) -> str:
    """JSON as Go writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    main()
