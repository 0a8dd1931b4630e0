"""Runs the operator's watch over one namespace, and prints the fleet of each wake: `python print_wakes.py NAMESPACE`.

A process of its own, because Kopf leaves sockets for its process to close.
"""

import asyncio
import sys
import threading

from headway_operator.handlers.watch import Watch

REQUEST_TIMEOUT_S = 10.0


def tell(_namespace: str, fleet: str) -> None:
    """Print a wake."""
    print(fleet, flush=True)  # noqa: T201  what this program is for


async def main(namespace: str) -> None:
    served = threading.Event()
    served.set()
    Watch(tell, served, (namespace, REQUEST_TIMEOUT_S), lambda: None).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
