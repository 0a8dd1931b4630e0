"""`headway schedule preview`: the windows of the next days, in the order in which they begin.

It computes what the operator computes, from the live object or from a file that is not applied yet.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import yaml

from headway_cli.cluster import Cluster
from headway_cli.errors import CliError
from headway_operator.api.v1alpha1 import LLMDeployment
from headway_operator.core import cron, schedule, validation
from headway_operator.core.plan import Manifest
from headway_operator.core.validation import Refused


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        begin, end: in the schedule's own time zone.
        overrides: fields that are others meanwhile, by their path in the spec.
        gives_way_to: windows that it contradicts: it is set aside while one of them is open.
    """

    name: str
    begin: datetime
    end: datetime
    overrides: Mapping[str, object]
    gives_way_to: tuple[str, ...] = ()


def command(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    if not 1 <= options.days <= 366:
        raise CliError(f"--days must lie in 1 to 366, got {options.days}")
    manifest = _read(options.file) if options.file else asyncio.run(_fetch(options))
    fleet = validation.sound(manifest)
    if isinstance(fleet, Refused):
        raise CliError(f"the operator would refuse it: {fleet.message}")
    found = sorted(windows(fleet, datetime.now(UTC), options.days), key=lambda window: window.begin)
    print(_as_json(found) if options.json else table(found, options.days), end="")
    return 0


def windows(fleet: LLMDeployment, now: datetime, days: int) -> Iterator[Window]:
    """Windows that are open now or begin within `days`, schedule by schedule."""
    until = now + timedelta(days=days)
    for item in fleet.spec.schedules:
        zone, length = ZoneInfo(item.time_zone), timedelta(seconds=item.duration_seconds)
        sets, opponents = schedule.overrides(item), schedule.gives_way_to(fleet.spec, item)
        for begin in takewhile(lambda at: at <= until, cron.starts(cron.parse(item.cron), zone, now - length)):
            yield Window(item.name, begin.astimezone(zone), (begin + length).astimezone(zone), sets, opponents)


def table(found: list[Window], days: int) -> str:
    """The windows as text."""
    if not found:
        return f"no window in the next {days} days\n"
    rows = [("WINDOW", "BEGINS", "ENDS", "BEGINS (UTC)", "OVERRIDES")]
    for window in found:
        changed = ", ".join(f"{field} {value}" for field, value in window.overrides.items()) or "none"
        if window.gives_way_to:
            changed += f" (set aside while {' or '.join(window.gives_way_to)} is open)"
        utc = window.begin.astimezone(UTC)
        rows.append((window.name, _local(window.begin), _local(window.end), f"{utc:%a %Y-%m-%d %H:%M}", changed))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join((*map(str.ljust, row, widths), row[4])) for row in rows]
    return "\n".join(lines) + "\n"


def _local(at: datetime) -> str:
    return f"{at:%a %Y-%m-%d %H:%M %Z}"


def _as_json(found: list[Window]) -> str:
    lines = [
        {
            "name": one.name,
            "begin": one.begin.isoformat(),
            "end": one.end.isoformat(),
            "overrides": one.overrides,
            "givesWayTo": one.gives_way_to,
        }
        for one in found
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _read(path: Path) -> Manifest:
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CliError(f"-f {path}: {error}") from None
    except RecursionError:
        raise CliError(f"-f {path}: it is nested too deeply") from None
    fleets = [one for one in documents if isinstance(one, dict) and one.get("kind") == "LLMDeployment"]
    if len(fleets) != 1:
        raise CliError(f"-f {path}: needs one LLMDeployment, has {len(fleets)}")
    # A manifest need not name its namespace: kubectl fills it in.
    metadata = fleets[0].get("metadata")
    return {**fleets[0], "metadata": {"namespace": "default", **(metadata if isinstance(metadata, dict) else {})}}


async def _fetch(options: argparse.Namespace) -> Manifest:
    async with await Cluster.connect(options.context) as cluster:
        return await cluster.fleet_object(options.name, options.namespace)
