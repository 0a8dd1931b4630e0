"""What reading a fleet costs the operator: CPU of `read_fleet` over HTTP, when all, some and none of the pods changed.

A second process answers like an API server: a fleet of pods as the operator creates them, with what kubelet and the API
server add, in pages. Prints one JSON object with the least CPU seconds of this process in a pass: `first_s` parses every
pod (what each pass did before), `changed_s` those that changed, `unchanged_s` none.
Usage: `python benchmarks/bench_read.py [--pods 5000] [--passes 5] [--changed 50]`.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web
from kubernetes.aio import client as k8s

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

from fleet_world import World, spec  # noqa: E402  the tests' support is no package

from headway_operator.shell.kube import FleetKey  # noqa: E402
from headway_operator.shell.kube_client import KubeClient  # noqa: E402
from headway_operator.shell.observe import Reads, read_fleet  # noqa: E402
from headway_operator.shell.pods import SeenPod  # noqa: E402

KEY = FleetKey("default", "chat")
SINCE = "2026-01-01T00:00:00Z"
CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--changed", type=int, default=50)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.pods), daemon=True)
    server.start()
    print(json.dumps(asyncio.run(measure(ours, options)), indent=2))
    server.terminate()


async def measure(server: Connection, options: argparse.Namespace) -> dict[str, float]:
    """Passes over the fleet, the server changing pods between some of them."""
    url, megabytes = server.recv()
    kube = KubeClient(k8s.ApiClient(k8s.Configuration(host=url)), 30.0, lambda *_: None)
    first, changed, unchanged = [], [], []
    for _ in range(options.passes):
        reads, seconds = await read(kube, {})
        first.append(seconds)
        reads, seconds = await read(kube, reads.seen)
        unchanged.append(seconds)
        server.send(options.changed)
        server.recv()
        reads, seconds = await read(kube, reads.seen)
        changed.append(seconds)
    await kube.close()
    return {
        "pods": len(reads.pods),
        "megabytes": megabytes,
        "first_s": round(min(first), 4),
        "changed": options.changed,
        "changed_s": round(min(changed), 4),
        "unchanged_s": round(min(unchanged), 4),
    }


async def read(kube: KubeClient, seen: Mapping[str, SeenPod]) -> tuple[Reads, float]:
    """One fresh read and the CPU time of it."""
    began = time.process_time()
    reads = await read_fleet(kube, KEY, seen)
    seconds = time.process_time() - began
    if reads is None:
        raise SystemExit("the server knows no fleet")
    return reads, seconds


def serve(parent: Connection, count: int) -> None:
    """The API server's process: tells its address, then changes so many pods whenever it is asked to."""
    asyncio.run(Server(count).run(parent))


class Server:
    """Answers LISTs of pods in pages, and GETs of the fleet."""

    def __init__(self, count: int) -> None:
        self.pods = pods(count)
        self.version = 0

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
        while True:
            for pod in self.pods[: await asyncio.to_thread(parent.recv)]:
                self.version += 1
                pod["metadata"]["resourceVersion"] = str(self.version)
            parent.send(None)

    async def list(self, request: web.Request) -> web.Response:
        """One page; the continue token is the number of its first pod."""
        start = int(request.query.get("continue") or 0)
        end = start + int(request.query["limit"])
        metadata = {"resourceVersion": str(self.version), "continue": str(end) if end < len(self.pods) else ""}
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
