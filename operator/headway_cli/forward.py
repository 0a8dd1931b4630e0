"""Port-forward to a pod through the API server, without kubectl: a local listener whose connections go over websockets.

The API server's `portforward` subresource speaks the channel protocol: each binary message begins with a channel number,
0 for data and 1 for errors of the one forwarded port; the first message of each channel repeats the port number and is
skipped. Each TCP connection gets a websocket of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from headway_cli.cluster import Cluster, Pod
from headway_cli.errors import CliError

DATA_CHANNEL = 0
ERROR_CHANNEL = 1
CHUNK_BYTES = 64 * 1024
PORT_GRPC = 50051
PORT_CONTROL = 50052


@asynccontextmanager
async def forward(cluster: Cluster, pod: Pod, port: int = PORT_GRPC) -> AsyncIterator[str]:
    """A local address whose connections reach `port` of the pod, for as long as the context lasts."""
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/portforward?ports={port}"
    open_connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio complains when one that it made for a connection is cancelled.
        task = asyncio.create_task(_connect(cluster, path, reader, writer))
        open_connections.add(task)
        task.add_done_callback(open_connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, local_port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{local_port}"
    finally:
        server.close()
        for task in list(open_connections):
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)


async def _connect(cluster: Cluster, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        # A pod that is gone shows to the local client as a closed connection, as it would without the forward.
        with contextlib.suppress(CliError, ConnectionError, aiohttp.ClientError):
            socket = await cluster.websocket(path)
            try:
                await _pump(socket, reader, writer)
            finally:
                await socket.close()
    finally:
        writer.close()


async def _pump(
    socket: aiohttp.ClientWebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Copy both ways until one side ends."""
    directions = (asyncio.create_task(_upstream(reader, socket)), asyncio.create_task(_downstream(socket, writer)))
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _upstream(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await socket.send_bytes(bytes([DATA_CHANNEL]) + data)


async def _downstream(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    greeted: set[int] = set()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, payload = message.data[0], message.data[1:]
        if channel not in greeted:
            greeted.add(channel)
        elif channel == DATA_CHANNEL:
            writer.write(payload)
            await writer.drain()
        elif channel == ERROR_CHANNEL and payload:
            return
