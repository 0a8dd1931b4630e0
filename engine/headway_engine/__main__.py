"""`python -m headway_engine`: parse the settings, then serve. Torch is imported when the model loads, not before."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headway_engine.core.limits import BatchingMode, Profile
from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.runtime.config import EngineConfig
from headway_engine.server import logs, process
from headway_engine.server.ports import EnginePort
from headway_engine.settings import Settings, SettingsError, parse

if TYPE_CHECKING:
    from headway_engine.runtime.engine import AsyncEngine


def main(argv: Sequence[str] | None = None) -> None:
    """Run the engine; ends the process with the exit code of ARCHITECTURE.md."""
    code = serve(sys.argv[1:] if argv is None else argv)
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit: a model that is still being loaded in a thread, or torch's own threads, would hold the process.
    os._exit(code)


def serve(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    logs.configure()
    # Torch's CPU threads meet many times in a step. By default each spins until the others come; where they share their
    # CPUs with anybody else, a step of 60 ms then takes over a second. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        settings = parse(argv, os.environ)
        return asyncio.run(process.run(settings, start_engine))
    except SettingsError as error:
        process.report_failure(str(error))
        return process.EXIT_BAD_SETTINGS
    except Exception as error:
        logging.getLogger("headway.engine").exception("this is a bug in the engine")
        process.report_failure(f"internal error: {error!r}")
        return process.EXIT_BUG


async def start_engine(settings: Settings) -> EnginePort:
    """Load the model. Importing torch takes seconds, so it happens off the event loop."""
    engine = await asyncio.to_thread(_engine_class)
    return await engine.start(engine_config(settings))


def _engine_class() -> "type[AsyncEngine]":
    from headway_engine.runtime.engine import AsyncEngine  # noqa: PLC0415 - brings torch along

    return AsyncEngine


def engine_config(settings: Settings) -> EngineConfig:
    """The part of the settings that the runtime needs."""
    return EngineConfig(
        model=Path(settings.model),
        served_model_name=settings.served_model_name,
        device=settings.device,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        capacity_max_num_seqs=settings.capacity_max_num_seqs,
        capacity_max_num_batched_tokens=settings.capacity_max_num_batched_tokens,
        capacity_max_queued_requests=settings.capacity_max_queued_requests,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        batch_wait_ms=settings.batch_wait_ms,
        max_queued_requests=settings.max_queued_requests,
        batching_mode=BatchingMode(settings.batching_mode),
        profile=Profile(settings.profile),
        itl_target_ms=settings.itl_target_ms,
        kv_cache_memory_mib=settings.kv_cache_memory_mib,
        block_size=settings.block_size,
        threads=settings.threads,
        prompt_policy=PromptPolicy(settings.prompt_policy),
        prefix_cache=settings.prefix_cache == "on",
    )


if __name__ == "__main__":
    main()
