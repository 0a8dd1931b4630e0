"""A client process of a load test: its share comes on standard input, its records leave on standard output.

Lines of JSON: in, the share; out, `"ready"`; in, the start time (monotonic, the same clock in every process of the
machine); out, the records.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headway_cli.bench.load import LoadClient, Share
from headway_cli.bench.report import Record
from headway_cli.bench.workload import Arrival
from headway_rpc.client import EngineError


def encode_share(share: Share) -> str:
    """One line."""
    return json.dumps(asdict(share))


def decode_share(line: str) -> Share:
    """The other way."""
    fields: dict[str, Any] = json.loads(line)
    fields["addresses"] = tuple(fields["addresses"])
    fields["schedule"] = tuple(Arrival(**arrival) for arrival in fields["schedule"])
    return Share(**fields)


def decode_records(line: str) -> list[Record]:
    """The records of one client."""
    rows: list[Mapping[str, Any]] = json.loads(line)
    return [Record(**{**row, "gaps_ms": tuple(row["gaps_ms"])}) for row in rows]


async def run() -> None:
    """The conversation above."""
    share = decode_share(await asyncio.to_thread(sys.stdin.readline))
    async with LoadClient(share) as client:
        print(json.dumps("ready"), flush=True)
        start_s = float(json.loads(await asyncio.to_thread(sys.stdin.readline)))
        records = await client.run(start_s)
    print(json.dumps([asdict(record) for record in records]), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(run())
    except EngineError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
