"""`headway diagnose`: what keeps a fleet from its objective, with numbers and the cure.

It asks the engines themselves for some seconds, through the API server, and judges what they say by the operator's own
rules; so it works while the operator does not. Then come the conditions that ask for something and the last warnings.
Exit code 0: nothing was found. 1: something was.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec

from headway_cli.cluster import Cluster, Fleet, Json, Pod, named, named_pod
from headway_cli.diagnosis import Diagnosis, Facts, conclude
from headway_cli.engine_stats import EngineStats
from headway_cli.errors import CliError
from headway_operator.core.observed import EngineSample
from headway_operator.shell.pods import Pod as PodJson
from headway_operator.shell.pods import pod_view
from headway_operator.shell.samples import decode
from headway_rpc import pb

LONGEST_S = 600
INTERVAL_S = 1.0
WARNINGS = 5  # so many of the last ones are shown


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    if not 1 <= options.seconds <= LONGEST_S:
        raise CliError(f"--seconds must lie in 1 to {LONGEST_S}, got {options.seconds}")
    found, fleet, warnings = asyncio.run(_read(options))
    print(as_json(fleet, found, warnings) if options.json else text(fleet, found, warnings), end="")
    return 1 if found.findings else 0


def text(fleet: Fleet, found: Diagnosis, warnings: Sequence[str]) -> str:
    """The diagnosis for a reader."""
    lines = [f"{fleet.namespace}/{fleet.name}", f"  {found.measured}", ""]
    for one in found.findings:
        lines += [f"{one.severity.upper()} {one.name}", f"  {one.words}"]
        lines += [f"  cure: {one.cure}", ""] if one.cure else [""]
    if not found.findings:
        lines += ["Nothing found", ""]
    lines += [f"Note: {note}" for note in found.notes]
    if warnings:
        lines += ["Last warnings", *(f"  {warning}" for warning in warnings)]
    return "\n".join(lines).rstrip("\n") + "\n"


def as_json(fleet: Fleet, found: Diagnosis, warnings: Sequence[str]) -> str:
    """The diagnosis for a program."""
    body = {
        "fleet": f"{fleet.namespace}/{fleet.name}",
        "healthy": not found.findings,
        **asdict(found),
        "warnings": list(warnings),
    }
    return json.dumps(body) + "\n"


async def _read(options: argparse.Namespace) -> tuple[Diagnosis, Fleet, list[str]]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(await Cluster.connect(options.context))
        fleet = named(await cluster.fleet_object(options.name, options.namespace))
        objects = await cluster.pod_objects(fleet)
        serving = [pod for item in objects if (pod := named_pod(item)).serving]
        samples, silent = await _sample(EngineStats(cluster, stack), serving, options.seconds)
        autoscalers = await _autoscalers(cluster, fleet)
        # Read after the engines: limits that the operator changed meanwhile are its own, which only its status tells.
        manifest = await cluster.fleet_object(fleet.name, fleet.namespace)
        facts = Facts(
            manifest=manifest,
            pods=tuple(pod_view(msgspec.convert(item, PodJson)) for item in objects),
            samples=samples,
            silent=silent,
            autoscalers=autoscalers,
            now=datetime.now(UTC),
            monotonic_s=asyncio.get_running_loop().time(),
        )
        return conclude(facts), fleet, await _warnings(cluster, fleet, manifest["metadata"]["uid"])


async def _sample(
    engines: EngineStats, pods: Sequence[Pod], seconds: int
) -> tuple[dict[str, tuple[EngineSample, ...]], dict[str, str]]:
    """One answer a second of each pod, and why a pod's last one is missing."""
    clock = asyncio.get_running_loop().time
    samples: dict[str, tuple[EngineSample, ...]] = {}
    silent: dict[str, str] = {}
    for second in range(seconds + 1 if pods else 0):
        if second:
            await asyncio.sleep(INTERVAL_S)
        for pod, answer in zip(pods, await engines.ask(pods), strict=True):
            if isinstance(answer, pb.Stats):
                samples[pod.name] = (*samples.get(pod.name, ()), decode(answer, clock()))
                silent.pop(pod.name, None)
            else:
                silent[pod.name] = answer
    return samples, silent


async def _autoscalers(cluster: Cluster, fleet: Fleet) -> tuple[str, ...]:
    path = f"/apis/autoscaling/v2/namespaces/{fleet.namespace}/horizontalpodautoscalers"
    return tuple(item["metadata"]["name"] for item in await cluster.find_items(path) if _targets(item["spec"], fleet))


def _targets(spec: Json, fleet: Fleet) -> bool:
    target = spec.get("scaleTargetRef", {})
    return (target.get("kind"), target.get("name")) == ("LLMDeployment", fleet.name)


async def _warnings(cluster: Cluster, fleet: Fleet, uid: str) -> list[str]:
    """The last Events of type Warning about the fleet, newest first; not those of an earlier one of its name."""
    selector = f"involvedObject.kind=LLMDeployment,involvedObject.uid={uid},type=Warning"
    query = urlencode({"fieldSelector": selector})
    events = await cluster.find_items(f"/api/v1/namespaces/{fleet.namespace}/events?{query}")
    newest = sorted(events, key=_when, reverse=True)[:WARNINGS]
    return [
        f"{_to_the_second(_when(event))}  {event.get('reason', '')}: {event.get('message', '')}" for event in newest
    ]


def _to_the_second(time: str) -> str:
    """A time as `kubectl` and the status write it: Events have theirs to the microsecond."""
    whole, point, _ = time.partition(".")
    return f"{whole}Z" if point else time


def _when(event: Json) -> str:
    return str(event.get("eventTime") or event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
