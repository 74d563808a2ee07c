"""`kubectl port-forward`: TCP connections to a pod's loopback addresses, over one WebSocket. Called by `kubelet_server`.

    kubectl ─ WebSocket ─ SPDY/3.1 ─┬─ requestid 0   stream `data`  ◀─▶ a connection to 127.0.0.1:PORT or [::1]:PORT of the pod
                                    │                stream `error` ◀── why there is none
                                    └─ requestid 1   …

The client opens both streams for each of its connections. Source: KEP-4006, and a kubelet's use of the headers streamtype, port
and requestid.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import WSMsgType, web

from percale.lab.kubernetes.spdy import (
    FrameReader,
    FrameWriter,
    GoingAway,
    Ping,
    SpdyError,
    StreamData,
    StreamOpened,
    StreamReset,
)
from percale.lab.process.netns_visit import visit_async

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_CHUNK = 65536
_PATIENCE = 5.0
"""Seconds for a connection to a loopback address."""
_LONGEST_STALL = 60.0
"""Seconds that a pod may take nothing; meanwhile all connections of the client wait, as nobody keeps SPDY's windows."""


async def forward_ports(client: web.WebSocketResponse, namespace: Path) -> None:
    """Until the client goes. `namespace` is the pod's."""
    session = _Session(client, namespace)
    reader = FrameReader()
    try:
        async for message in client:
            if message.type is not WSMsgType.BINARY:
                return
            for frame in reader.frames(message.data):
                if isinstance(frame, GoingAway):
                    return
                await session.take(frame)
    except (SpdyError, ConnectionError):
        return
    finally:
        await session.close()


@dataclass(eq=False)
class _Connection:
    """One of the client's. It begins when both streams are there."""

    streams: dict[str, int] = field(default_factory=dict)
    port: int = 0
    writer: asyncio.StreamWriter | None = None

    def abort(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()


class _Session:
    """Of one WebSocket."""

    def __init__(self, client: web.WebSocketResponse, namespace: Path) -> None:
        self._client = client
        self._namespace = namespace
        self._frames = FrameWriter()
        self._by_request: dict[str, _Connection] = {}
        self._by_data_stream: dict[int, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, frame: StreamOpened | StreamData | StreamReset | Ping) -> None:
        """Raises SpdyError, ConnectionError."""
        match frame:
            case StreamOpened():
                await self._client.send_bytes(self._frames.reply(frame.stream))
                await self._open(frame.stream, frame.headers)
            case StreamData():
                await self._write(frame)
            case StreamReset() if frame.stream in self._by_data_stream:
                self._by_data_stream[frame.stream].abort()
            case Ping():
                await self._client.send_bytes(self._frames.ping(frame.number))

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, stream: int, headers: Mapping[str, str]) -> None:
        request, kind, port = (headers.get(name, "") for name in ("requestid", "streamtype", "port"))
        if kind not in ("data", "error") or not port.isdecimal() or not 0 < int(port) < 65536:
            raise SpdyError(f"a stream {kind!r} to port {port!r}")
        connection = self._by_request.setdefault(request, _Connection())
        connection.streams[kind], connection.port = stream, int(port)
        if len(connection.streams) < 2:
            return
        del self._by_request[request]
        try:
            reader, connection.writer = await _connect(self._namespace, connection.port)
        except OSError as error:
            why = f"the pod does not answer at port {port}: {error.strerror or error}".encode()
            await self._client.send_bytes(self._frames.data(connection.streams["error"], why))
            await self._finish(connection)
            return
        self._by_data_stream[connection.streams["data"]] = connection
        task = asyncio.create_task(self._read(connection, reader, connection.writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, frame: StreamData) -> None:
        connection = self._by_data_stream.get(frame.stream)
        if connection is None or connection.writer is None:
            return  # it has ended, or is one for errors, in which the client says nothing
        connection.writer.write(frame.data)
        try:
            async with asyncio.timeout(_LONGEST_STALL):
                await connection.writer.drain()
            if frame.last:
                connection.writer.write_eof()
        except OSError:  # a timeout is one
            connection.abort()

    async def _read(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the pod sends, until it ends."""
        stream = connection.streams["data"]
        try:
            with suppress(ConnectionError):
                while data := await reader.read(_CHUNK):
                    await self._client.send_bytes(self._frames.data(stream, data))
        finally:
            del self._by_data_stream[stream]
            writer.close()
        with suppress(ConnectionError):
            await self._finish(connection)

    async def _finish(self, connection: _Connection) -> None:
        for stream in connection.streams.values():
            await self._client.send_bytes(self._frames.data(stream, b"", last=True))


async def _connect(namespace: Path, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError."""

    def connected() -> socket.socket:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        except OSError:
            with suppress(OSError):
                return socket.create_connection(("::1", port), timeout=_PATIENCE)
            raise

    endpoint = await visit_async(namespace, connected)
    endpoint.setblocking(False)
    return await asyncio.open_connection(sock=endpoint)
