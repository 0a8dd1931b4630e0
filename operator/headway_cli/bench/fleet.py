"""`headway bench fleet`: what a user waits for on a live cluster, from `kubectl apply` to the effect.

In a namespace of its own, which is deleted at the end, it measures

- apply to first token: from the write of an LLMDeployment to the first token that its engine sends;
- limit change: from a new `spec.engine.limits.maxNumSeqs` to the last engine that runs with it, with no pod replaced;
- drift: from the deletion (or a foreign edit) of an owned object to its repair.

The first repetition pulls the images if they are not there; the worst and, with --json, every sample show that.
"""

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import yaml

from headway_cli.cluster import Cluster, Fleet, Pod
from headway_cli.errors import CliError
from headway_cli.forward import PORT_CONTROL, forward
from headway_rpc import EngineControlStub, pb
from headway_rpc.client import EngineClient, open_channel

T = TypeVar("T")

POLL_S = 0.02
TIMEOUT_S = 180.0
GOALS_S = {"apply to first token": 40.0, "limit change on every pod": 3.0, "repair of an owned object": 2.0}


def command(options: argparse.Namespace) -> int:
    """Run it; returns 0 when every goal is met."""
    try:
        manifest = yaml.safe_load(Path(options.manifest).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CliError(f"--manifest {options.manifest}: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != "LLMDeployment":
        raise CliError(f"--manifest {options.manifest}: not an LLMDeployment")
    _check(manifest, options)
    samples = asyncio.run(_measure(manifest, options.repeats, options.context))
    results = [result(name, values) for name, values in samples.items()]
    now = datetime.now(UTC)
    lines = "".join(json.dumps(line) + "\n" for line in ({"case": "fleet", "date": now.isoformat()}, *results))
    print(lines if options.json else table(results), end="")
    if options.save:
        path = Path(options.save) / f"fleet-{now:%Y%m%dT%H%M%SZ}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    return 0 if all(line["goal_met"] for line in results) else 1


def _check(manifest: dict[str, Any], options: argparse.Namespace) -> None:
    """What would only be missed after minutes, or after the fleet was made."""
    if options.repeats < 1:
        raise CliError(f"--repeats must be at least 1, got {options.repeats}")
    fields: tuple[tuple[str, ...], ...] = (("metadata", "name"), ("spec", "engine", "limits", "maxNumSeqs"))
    for path in fields:
        found: object = manifest
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            raise CliError(f"--manifest {options.manifest}: {'.'.join(path)} is missing")


def result(name: str, seconds: list[float]) -> dict[str, Any]:
    """One line: the median and the worst, and whether the worst is within the goal."""
    goal = GOALS_S[name]
    return {
        "name": name,
        "median_s": round(median(seconds), 3),
        "max_s": round(max(seconds), 3),
        "goal_s": goal,
        "goal_met": max(seconds) <= goal,
        "samples_s": [round(value, 3) for value in seconds],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The same for people."""
    lines = [f"{'':<28}{'median s':>10}{'worst s':>10}{'goal s':>10}"]
    for line in results:
        mark = "" if line["goal_met"] else "  MISSED"
        lines.append(f"{line['name']:<28}{line['median_s']:>10.2f}{line['max_s']:>10.2f}{line['goal_s']:>10.0f}{mark}")
    return "\n".join(lines) + "\n"


async def _measure(manifest: dict[str, Any], repeats: int, context: str | None) -> dict[str, list[float]]:
    namespace = f"headway-bench-{uuid.uuid4().hex[:6]}"
    async with await Cluster.connect(context) as cluster:
        bench = _Bench(cluster, manifest, namespace)
        await cluster.write("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            applied = [await bench.apply_to_token() for _ in range(repeats)]
            limits = [await bench.limit_change(number) for number in range(repeats)]
            repairs = [await bench.repair(drift) for _ in range(repeats) for drift in bench.drifts()]
        finally:
            await bench.remove()
            await cluster.write("DELETE", f"/api/v1/namespaces/{namespace}")
    return dict(zip(GOALS_S, (applied, limits, repairs), strict=True))


class _Bench:
    def __init__(self, cluster: Cluster, manifest: dict[str, Any], namespace: str) -> None:
        self._cluster = cluster
        self._manifest = {**manifest, "metadata": {"name": manifest["metadata"]["name"], "namespace": namespace}}
        self._fleet = Fleet(namespace, manifest["metadata"]["name"], "")
        self._collection = f"/apis/serving.headway.dev/v1alpha1/namespaces/{namespace}/llmdeployments"
        self._path = f"{self._collection}/{self._fleet.name}"

    async def apply_to_token(self) -> float:
        """Create the fleet anew and ask it for one token."""
        await self.remove()
        began_s = time.monotonic()
        await self._cluster.write("POST", self._collection, self._manifest)
        pod = (await _until("a ready pod", self._serving))[0]
        request = pb.GenerateRequest(text="Hello", sampling_params=pb.SamplingParams(max_tokens=1, temperature=0.0))
        async with forward(self._cluster, pod) as address, EngineClient(address) as client:
            await client.wait_ready(TIMEOUT_S)
            async for _ in client.generate(request):
                return time.monotonic() - began_s
        raise CliError("the engine ended the answer without a token")

    async def limit_change(self, number: int) -> float:
        """Move `maxNumSeqs` by one, there and back, and wait for every engine."""
        pods = await _until("a ready pod", self._serving)
        before = await self._cluster.get(self._path)
        declared = int(before["spec"]["engine"]["limits"]["maxNumSeqs"])
        wanted = declared + (1 if number % 2 == 0 else -1)
        async with AsyncExitStack() as stack:
            engines = []
            for pod in pods:
                address = await stack.enter_async_context(forward(self._cluster, pod, PORT_CONTROL))
                engines.append(EngineControlStub(await stack.enter_async_context(open_channel(address))))

            async def everywhere() -> bool:
                configs = [await engine.GetRuntimeConfig(pb.GetRuntimeConfigRequest()) for engine in engines]
                return all(config.baseline.max_num_seqs == wanted for config in configs)

            await everywhere()  # the connections are made before the clock runs
            began_s = time.monotonic()
            await self._cluster.write("PATCH", self._path, {"spec": {"engine": {"limits": {"maxNumSeqs": wanted}}}})
            await _until("the new limit on every pod", everywhere)
            took_s = time.monotonic() - began_s
        if [pod.name for pod in await self._serving()] != [pod.name for pod in pods]:
            raise CliError("a changed limit replaced a pod")
        return took_s

    def drifts(self) -> list[Callable[[], Awaitable[Callable[[], Awaitable[bool]]]]]:
        """What somebody does to an owned object; each returns the question whether it is repaired."""
        scope, name = f"/api/v1/namespaces/{self._fleet.namespace}", self._fleet.name
        budgets = f"/apis/policy/v1/namespaces/{self._fleet.namespace}/poddisruptionbudgets/{name}"

        async def gone(path: str) -> Callable[[], Awaitable[bool]]:
            uid = (await self._cluster.get(path))["metadata"]["uid"]
            await self._cluster.write("DELETE", path)

            async def back() -> bool:
                found = await self._cluster.find(path)
                return found is not None and found["metadata"]["uid"] != uid

            return back

        async def selector() -> Callable[[], Awaitable[bool]]:
            path = f"{scope}/services/{name}"
            wanted = (await self._cluster.get(path))["spec"]["selector"]
            patch = {"spec": {"selector": {"serving.headway.dev/fleet": "another"}}}
            await self._cluster.write("PATCH", path, patch)

            async def repaired() -> bool:
                return bool((await self._cluster.get(path))["spec"]["selector"] == wanted)

            return repaired

        return [lambda: gone(f"{scope}/services/{name}"), lambda: gone(budgets), selector]

    async def repair(self, drift: Callable[[], Awaitable[Callable[[], Awaitable[bool]]]]) -> float:
        """Cause a drift and wait for its repair; the time counts from the answer to the write."""
        repaired = await drift()
        began_s = time.monotonic()
        await _until("the repair", repaired)
        return time.monotonic() - began_s

    async def remove(self) -> None:
        """Delete the fleet and wait until it and its pods are gone."""
        await self._cluster.write("DELETE", self._path, missing_ok=True)

        async def gone() -> bool:
            return await self._cluster.find(self._path) is None and not await self._cluster.pods(self._fleet)

        await _until("the fleet's end", gone)

    async def _serving(self) -> list[Pod]:
        return [pod for pod in await self._cluster.pods(self._fleet) if pod.serving]


async def _until(what: str, ask: Callable[[], Awaitable[T]]) -> T:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        if found := await ask():
            return found
        if time.monotonic() > deadline_s:
            raise CliError(f"{what}: not within {TIMEOUT_S:g} s")
        await asyncio.sleep(POLL_S)
