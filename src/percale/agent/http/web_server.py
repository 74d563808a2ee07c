"""The agent's web server: short requests without bodies, and a limited number of clients, because pods reach some of its ports.

A new connection beyond the limit closes the oldest one. Requests are answered within milliseconds; a client that keeps
connections open, or does not finish its request, uses no more of the agent's descriptors and memory than this limit.

Importing aiohttp takes longer than programming the node: a thread imports this module at the first request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from percale.agent.http.listener import Page

MOST_CONNECTIONS = 64
"""Connections at a time."""
_LARGEST_LINE = 4096
"""Bytes of a request's first line, or of one header."""
_LARGEST_REQUEST = 65536
_LONGEST_QUIET = 30.0
"""Seconds an idle connection is kept."""


class _NoBadRequests(logging.Filter):
    """Drops tracebacks of bad requests: the client gets a 400, and the node's operator needs no log entry."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger("percale.http")
_LOGGER.addFilter(_NoBadRequests())


class ConnectionLimit:
    """Closes the oldest connection beyond the limit; shared by several servers."""

    def __init__(self, most: int = MOST_CONNECTIONS) -> None:
        self._most = most
        self._open: dict[object, asyncio.Transport] = {}
        """The oldest first."""

    def add(self, connection: object, transport: asyncio.Transport) -> None:
        self._open[connection] = transport
        if len(self._open) > self._most:
            self._open.pop(next(iter(self._open))).abort()

    def discard(self, connection: object) -> None:
        self._open.pop(connection, None)


class _Server(web.Server):
    def __init__(self, answer: Callable[[web.BaseRequest], Any], limit: ConnectionLimit) -> None:
        super().__init__(answer)
        self._connection_limit = limit

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            self._connection_limit,
            loop=self._loop,
            access_log=None,
            logger=_LOGGER,
            keepalive_timeout=_LONGEST_QUIET,
            max_line_size=_LARGEST_LINE,
            max_field_size=_LARGEST_LINE,
        )


class _Connection(web.RequestHandler):
    def __init__(self, server: web.Server, limit: ConnectionLimit, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._connection_limit = limit
        self.unanswered = 0
        """Bytes since the last request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._connection_limit.add(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connection_limit.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.unanswered += len(data)
        if self.unanswered <= _LARGEST_REQUEST:
            super().data_received(data)
        elif isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


async def runner(
    find: Callable[[str], Callable[[], Page] | None],
    limit: ConnectionLimit,
    *,
    shutdown_timeout: float,
    any_method: bool = False,
) -> web.ServerRunner:
    """A server without sites, whose paths `find` has pages for; `shutdown_timeout` is in seconds, for the last responses."""

    async def answer(request: web.BaseRequest) -> web.Response:
        assert isinstance(request.protocol, _Connection)
        request.protocol.unanswered = 0
        if (page := find(request.path)) is None:
            return web.Response(status=404)
        if request.method != "GET" and not any_method:
            return web.Response(status=405, headers={"Allow": "GET"})
        body, kind, code, more = page()
        headers = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **more}
        return web.Response(status=code, body=body, headers=headers)

    made = web.ServerRunner(_Server(answer, limit), handle_signals=False, shutdown_timeout=shutdown_timeout)
    await made.setup()
    return made
