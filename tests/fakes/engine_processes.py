"""The engine's process as a child of a test: its ports, its log, its probes."""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

FAKES = Path(__file__).parent


@dataclass
class Running:
    process: asyncio.subprocess.Process
    ports: dict[str, int]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['port']}"

    async def log_until(self, message: str) -> dict[str, object]:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            record = json.loads(line)
            if record["message"] == message:
                return dict(record)
        raise AssertionError(f"the process ended without saying {message!r}")

    async def probe(self, path: str) -> int:
        def get() -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http_port']}{path}", timeout=60) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        return await asyncio.to_thread(get)


@asynccontextmanager
async def engine(model: str, *flags: str) -> AsyncIterator[Running]:
    zero = ("--host", "127.0.0.1", "--port", "0", "--control-port", "0", "--http-port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FAKES / "serve_fake_engine.py"),
        "--model",
        model,
        *zero,
        *flags,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Running(process, {})
    try:
        opened = await running.log_until("ports are open, loading the model")
        running.ports = {name: int(str(opened[name])) for name in ("port", "control_port", "http_port")}
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
