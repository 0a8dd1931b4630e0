"""From the command line's target options to addresses that a client can connect to."""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from headway_cli.errors import CliError

# The addresses of the engines that serve at this moment.
Current = Callable[[], Awaitable[list[str]]]


@asynccontextmanager
async def address(options: argparse.Namespace) -> AsyncIterator[str]:
    """One engine: the address given, or a forward to a pod of the fleet that serves now."""
    async with following(options, most=1) as current:
        (one,) = await current()
        yield one


@asynccontextmanager
async def following(options: argparse.Namespace, most: int | None = None) -> AsyncIterator[Current]:
    """The engines, as they come and go: the addresses given, or forwards to at most `most` pods of a fleet that serve."""
    given = options.address
    if given:
        if options.fleet:
            raise CliError("give either --address or --fleet, not both")
        fixed = list(given) if isinstance(given, list) else [given]

        async def always() -> list[str]:
            return fixed

        yield always
        return
    # Kubernetes' client takes half a second to import; an address does not need it.
    from headway_cli.cluster import Cluster
    from headway_cli.forward import forward

    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(await Cluster.connect(options.context))
        fleet = await cluster.find_fleet(options.fleet, options.namespace)
        forwards: dict[str, str] = {}

        async def serving() -> list[str]:
            pods = await cluster.serving_pods(fleet)
            for pod in pods[:most]:
                if pod.name not in forwards:
                    forwards[pod.name] = await stack.enter_async_context(forward(cluster, pod))
            return [forwards[pod.name] for pod in pods[:most]]

        yield serving
