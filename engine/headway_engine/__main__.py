"""`python -m headway_engine`: parse the settings, then serve. Torch is imported by the process that loads the model only."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from headway_engine import logs
from headway_engine.core.limits import BatchingMode, Profile
from headway_engine.core.prompt_policy import PromptPolicy
from headway_engine.core.request import Priority
from headway_engine.runtime.config import EngineConfig
from headway_engine.runtime.engine import AsyncEngine
from headway_engine.server import process
from headway_engine.server.ports import EnginePort
from headway_engine.settings import Settings, SettingsError, parse


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
    """Load the model, in a process of its own."""
    return await AsyncEngine.start(engine_config(settings))


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
        reserved_percent=settings.reserved_percent,
        default_class=Priority[settings.default_class.upper()],
        max_queued_batch_requests=settings.max_queued_batch_requests,
        kv_cache_memory_mib=settings.kv_cache_memory_mib,
        block_size=settings.block_size,
        threads=settings.threads,
        prompt_policy=PromptPolicy(settings.prompt_policy),
        prefix_cache=settings.prefix_cache == "on",
    )


if __name__ == "__main__":
    main()
