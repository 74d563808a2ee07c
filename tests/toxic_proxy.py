"""A TCP proxy that fails as networks do, between a client and a server of a test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress


class ToxicProxy:
    """`port` is where clients connect."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.go_on = asyncio.Event()
        """While it is clear, connections are accepted and wait."""
        self.go_on.set()
        self.bytes_left: int | None = None
        """Of the server's bytes this many more pass; then the connection ends, in the middle of whatever it is."""
        self.delay = 0.0
        """Seconds that each piece of the server's takes."""
        self.instead: bytes | None = None
        """The answer to the next connection, without the server."""
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ToxicProxy]:
        await self.start()
        try:
            yield self
        finally:
            self.stop()

    async def start(self) -> None:
        """Again on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def stop(self) -> None:
        """Refuse connections, and end those there are."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """End all connections with a reset."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, listener: socket.socket) -> None:
        """At once: asyncio's servers, and its `sock_accept`, lose a connection that comes in while they are ended."""
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        task = asyncio.create_task(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        with self._known(writer), suppress(ConnectionError):
            await self.go_on.wait()
            if self.instead is not None:
                answer, self.instead = self.instead, None
                await reader.read(65536)
                writer.write(answer)
                await writer.drain()
                return
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._target)
            with self._known(their_writer):
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._copy(reader, their_writer, counted=False))
                        tasks.create_task(self._copy(their_reader, writer, counted=True))
                except* ConnectionError:
                    pass

    @contextmanager
    def _known(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """From its first moment `cut` ends it, and nothing of it is left."""
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        while data := await source.read(65536):
            if counted and self.bytes_left is not None:
                data = data[: self.bytes_left]
                self.bytes_left -= len(data)
            if counted and self.delay:
                await asyncio.sleep(self.delay)
            sink.write(data)
            await sink.drain()
            if counted and self.bytes_left == 0:
                self.bytes_left = None
                break
        raise ConnectionError
