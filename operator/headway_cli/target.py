"""From the command line's target options to addresses that a client can connect to."""

import argparse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from headway_cli.errors import CliError


@asynccontextmanager
async def addresses(options: argparse.Namespace, every_pod: bool) -> AsyncIterator[list[str]]:
    """The addresses given, or forwards to the serving pods of a fleet (one of them unless `every_pod`)."""
    given = options.address
    if given:
        if options.fleet:
            raise CliError("give either --address or --fleet, not both")
        yield list(given) if isinstance(given, list) else [given]
        return
    # Kubernetes' client takes half a second to import; an address does not need it.
    from headway_cli.cluster import Cluster
    from headway_cli.forward import forward

    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(await Cluster.connect(options.context))
        fleet = await cluster.find_fleet(options.fleet, options.namespace)
        pods = await cluster.serving_pods(fleet)
        chosen = pods if every_pod else pods[:1]
        yield [await stack.enter_async_context(forward(cluster, pod)) for pod in chosen]
