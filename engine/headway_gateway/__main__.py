"""The gateway's process: `headway gateway serve` or `python -m headway_gateway`.

After SIGTERM it serves on (`app`). It listens until `--drain-delay-seconds` are over, which proxies need to notice, and ends
when nothing is in flight, or `--drain-timeout-seconds` later.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from aiohttp import web

from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings, parse

CLOSE_TIMEOUT_S = 1.0
# Of a connection without a whole request; longer than the 60 s after which proxies give theirs up.
IDLE_TIMEOUT_S = 75.0


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, and what arrives until the end."""
    settings = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # It has a trace for each client that speaks no HTTP; a bug of ours is logged by the gateway itself.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """The life of one process."""
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():  # the second one does not wait
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    async with Engines(settings.engines) as engines:
        gateway = Gateway(settings, engines)
        # What is in flight has been waited for already when the runner ends: its own wait would come on top.
        runner = web.AppRunner(
            gateway.application(),
            handler_cancellation=True,
            shutdown_timeout=CLOSE_TIMEOUT_S,
            keepalive_timeout=IDLE_TIMEOUT_S,
        )
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            try:
                await site.start()
            except OSError as error:
                raise SystemExit(f"headway gateway serve: --port {settings.port}: {error.strerror}") from None
            logging.getLogger(__name__).info("listening on port %d", runner.addresses[0][1])
            await stop.wait()
            gateway.begin_drain()
            await asyncio.sleep(settings.drain_delay_s)
            await site.stop()
            await gateway.finished()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    main()
