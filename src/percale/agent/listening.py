"""The socket behind the agent's HTTP, bound at the start; what answers is imported when somebody asks. Called by `node.py`.

An address that is taken is found out at once, and an agent that nobody asks never pays for a web server.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from percale.errors import BadConfig

_BACKLOG = 128


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Listen at `HOST:PORT`, `[IPv6]:PORT` or `unix:/PATH` until the end of the block. Raises BadConfig."""
    path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
    try:
        listener = _unix(path) if path is not None else _tcp(address)
    except OSError as error:
        raise BadConfig(
            f"cannot listen: {error.strerror or error}", where=f"http {address}", hint="choose another with --http"
        ) from error
    try:
        yield listener
    finally:
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)


def _unix(path: Path) -> socket.socket:
    """In place of whatever an earlier agent left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(draft))
        listener.listen(_BACKLOG)
        draft.rename(path)
    except OSError:
        listener.close()
        with suppress(OSError):
            draft.unlink()
        raise
    return listener


def _tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def asked(listener: socket.socket) -> None:
    """Wait until somebody connects; the connection is left for whoever accepts."""
    loop = asyncio.get_running_loop()
    somebody = asyncio.Event()
    loop.add_reader(listener, somebody.set)
    try:
        await somebody.wait()
    finally:
        loop.remove_reader(listener)
