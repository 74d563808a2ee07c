"""The way of the machine's kubectl into the lab: a loopback port of the user's own network namespace.

    kubectl ─ TLS ─▶ 127.0.0.1:PORT ─ controller ─▶ 127.0.0.1:6443 of the lab's namespace, kube-apiserver

The socket is made by `lab up`, before the lab's namespaces are: a socket stays where it was made. Bytes pass as they are: who
may do what is decided by the API server, from the client's certificate.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from percale.errors import LabError

_CHUNK = 65536


def listen() -> socket.socket:
    """A free port of the loopback device. Raises LabError."""
    try:
        return socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        raise LabError(f"cannot listen on 127.0.0.1: {error.strerror}", hint="type: sudo ip link set lo up") from error


async def forward(listener: socket.socket, host: str, port: int) -> None:
    """Forward each connection, until cancelled."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        except OSError:  # it starts, or starts again: the client sees a closed connection
            writer.close()
            return
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    server = await asyncio.start_server(handle, sock=listener)
    async with server:
        await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, until its end."""
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
