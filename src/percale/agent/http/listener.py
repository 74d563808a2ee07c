"""The listening socket of the agent's HTTP, bound at the start; the server is imported at the first connection.

An address in use is reported at once, and an agent without HTTP clients never loads a web server. Callers:
`context.py`, `proxier_health.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from percale.errors import BadConfig
from percale.unix_socket import listen_at

_BACKLOG = 128


class Page(NamedTuple):
    """A response."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    code: int = 200
    headers: Mapping[str, str] = {}


def metrics_page(exposition: bytes) -> Page:
    """For Prometheus."""
    return Page(exposition, "text/plain; version=0.0.4; charset=utf-8")


@contextmanager
def listen(address: str, *, setting: str = "http", hint: str = "choose another with --http") -> Iterator[socket.socket]:
    """Listen at `HOST:PORT`, `[IPv6]:PORT`, `*:PORT` or `unix:/PATH` until the end of the block.

    Raises BadConfig, which names the setting and has the hint.
    """
    path = Path(address.removeprefix("unix:")) if address.startswith("unix:") else None
    try:
        listener = _unix(path) if path is not None else _tcp(address)
    except OSError as error:
        raise BadConfig(f"cannot listen: {error.strerror or error}", where=f"{setting} {address}", hint=hint) from error
    try:
        yield listener
    finally:
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)


def _unix(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    return listen_at(path, backlog=_BACKLOG)


def _tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    everywhere = host == "*"
    both = everywhere and socket.has_dualstack_ipv6()
    wanted = socket.AF_INET6 if both else socket.AF_INET if everywhere else socket.AF_UNSPEC
    name = None if everywhere else host.strip("[]")
    family, kind, protocol, _, where = socket.getaddrinfo(
        name, int(port), family=wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def wait_for_connection(listener: socket.socket) -> None:
    """Wait until a client connects, without accepting the connection."""
    loop = asyncio.get_running_loop()
    connected = asyncio.Event()
    loop.add_reader(listener, connected.set)
    try:
        await connected.wait()
    finally:
        loop.remove_reader(listener)
