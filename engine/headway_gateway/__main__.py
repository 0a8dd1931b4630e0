"""The gateway's process: `headway gateway serve` or `python -m headway_gateway`."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from aiohttp import web

from headway_gateway.app import Gateway
from headway_gateway.engines import Engines
from headway_gateway.settings import Settings, parse


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight."""
    settings = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """The life of one process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Engines(settings.engines) as engines:
        gateway = Gateway(settings, engines)
        runner = web.AppRunner(gateway.application(), handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
            logging.getLogger(__name__).info("listening on port %d", runner.addresses[0][1])
            await stop.wait()
            await gateway.drain()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    main()
