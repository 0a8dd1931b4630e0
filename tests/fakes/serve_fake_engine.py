"""The engine process with the fake engine in place of a model: `python serve_fake_engine.py FLAGS`.

With `--model paced` it is the real engine, step process and all, around a scripted model.
"""

import asyncio
import os
import sys

from fake_async_engine import FakeAsyncEngine
from fake_engine_model import paced

from headway_engine import logs
from headway_engine.__main__ import engine_config
from headway_engine.runtime.config import ModelLoadError
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server import process
from headway_engine.server.ports import EnginePort
from headway_engine.settings import Settings, SettingsError, parse


async def start(settings: Settings) -> EnginePort:
    if settings.model == "paced":
        return await AsyncEngine.start(engine_config(settings), paced)
    if settings.model == "broken.gguf":
        raise ModelLoadError("/models/broken.gguf: not a GGUF file")
    if settings.model == "endless":
        await asyncio.Event().wait()
    return FakeAsyncEngine(auto=True)


def main() -> int:
    logs.configure()
    try:
        return asyncio.run(process.run(parse(sys.argv[1:], os.environ), start))
    except SettingsError as error:
        process.report_failure(str(error))
        return process.EXIT_BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
