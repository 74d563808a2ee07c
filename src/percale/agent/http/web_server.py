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

MOST = 64
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


class Guests:
    """The clients of all servers that share it."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._present: dict[object, asyncio.Transport] = {}
        """In the order of their coming."""

    def come(self, guest: object, transport: asyncio.Transport) -> None:
        self._present[guest] = transport
        if len(self._present) > self._most:
            self._present.pop(next(iter(self._present))).abort()

    def go(self, guest: object) -> None:
        self._present.pop(guest, None)


class _Server(web.Server):
    def __init__(self, answer: Callable[[web.BaseRequest], Any], guests: Guests) -> None:
        super().__init__(answer)
        self._guests = guests

    def __call__(self) -> web.RequestHandler:
        return _Guest(
            self,
            self._guests,
            loop=self._loop,
            access_log=None,
            logger=_LOGGER,
            keepalive_timeout=_LONGEST_QUIET,
            max_line_size=_LARGEST_LINE,
            max_field_size=_LARGEST_LINE,
        )


class _Guest(web.RequestHandler):
    """One connection."""

    def __init__(self, server: web.Server, guests: Guests, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._guests = guests
        self.unanswered = 0
        """Bytes since the last request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._guests.come(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guests.go(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.unanswered += len(data)
        if self.unanswered <= _LARGEST_REQUEST:
            super().data_received(data)
        elif isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


async def runner(
    find: Callable[[str], Callable[[], Page] | None], guests: Guests, *, patience: float, any_method: bool = False
) -> web.ServerRunner:
    """A server without sites, whose paths `find` has pages for; `patience` is for the last answers, in seconds."""

    async def answer(request: web.BaseRequest) -> web.Response:
        assert isinstance(request.protocol, _Guest)
        request.protocol.unanswered = 0
        if (page := find(request.path)) is None:
            return web.Response(status=404)
        if request.method != "GET" and not any_method:
            return web.Response(status=405, headers={"Allow": "GET"})
        body, kind, code, more = page()
        headers = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **more}
        return web.Response(status=code, body=body, headers=headers)

    made = web.ServerRunner(_Server(answer, guests), handle_signals=False, shutdown_timeout=patience)
    await made.setup()
    return made
