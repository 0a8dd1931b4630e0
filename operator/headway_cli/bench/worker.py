"""A client process of a load test: its share comes on standard input, its records leave on standard output.

Lines of JSON: in, the share; out, `"ready"`; in, the start time (monotonic, the same clock in every process of the
machine); from then on in, the addresses to send to, each time that they change; out, the records.
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

# The share of a long test is one line, and so are its records.
LINE_BYTES = 1 << 28


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
    lines = await _stdin()
    share = decode_share((await lines.readline()).decode())
    async with LoadClient(share) as client:
        print(json.dumps("ready"), flush=True)
        start_s = float(json.loads(await lines.readline()))
        following = asyncio.create_task(_follow(client, lines))
        records = await client.run(start_s)
        following.cancel()
    print(json.dumps([asdict(record) for record in records]), flush=True)


async def _follow(client: LoadClient, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        await client.follow(json.loads(line))


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    try:
        asyncio.run(run())
    except EngineError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
