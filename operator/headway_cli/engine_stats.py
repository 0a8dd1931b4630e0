"""`GetStats` of engines inside a cluster, through the API server: connections that are kept, and a failure as a sentence."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from headway_cli.cluster import Cluster, Pod
from headway_cli.errors import CliError
from headway_cli.forward import PORT_CONTROL, forward
from headway_rpc import EngineControlStub, pb
from headway_rpc.client import open_channel, readable

ANSWER_TIMEOUT_S = 2.0
WORDS = 60  # characters of a failure


class EngineStats:
    """Connections to the control ports of the pods seen so far; they close with `stack`."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self._stubs: dict[str, Any] = {}

    async def ask(self, pods: Sequence[Pod]) -> list[pb.Stats | str]:
        """Every pod's answer, or why there is none, in the order of `pods`."""
        return list(await asyncio.gather(*(self._ask(pod) for pod in pods)))

    async def _ask(self, pod: Pod) -> pb.Stats | str:
        try:
            if pod.name not in self._stubs:
                address = await self._stack.enter_async_context(forward(self._cluster, pod, PORT_CONTROL))
                self._stubs[pod.name] = EngineControlStub(await self._stack.enter_async_context(open_channel(address)))
            answer: pb.Stats = await self._stubs[pod.name].GetStats(pb.GetStatsRequest(), timeout=ANSWER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return f"no answer: {readable(error).message}"[:WORDS]
        except CliError as error:
            return str(error)[:WORDS]
        return answer
