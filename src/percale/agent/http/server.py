"""The agent's HTTP: /healthz, /livez, /readyz, /metrics, /status. Loopback unless told otherwise; GET only, no bodies.

Importing aiohttp takes longer than programming the node: `context.py` and
`proxier_health.py` import this module in a thread, when somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from percale.agent.http.listener import Page
from percale.agent.metrics import Figures, Metrics
from percale.agent.status import Status

_LARGEST_LINE = 4096
"""Bytes of a request's first line, or of one header."""
_LONGEST_QUIET = 30.0
"""Seconds an idle connection is kept."""


class _NoBadRequests(logging.Filter):
    """What a client does wrong is answered with 400, and is nothing to tell the node's operator, with a traceback at that."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger("percale.http")
_LOGGER.addFilter(_NoBadRequests())


class Subject(Protocol):
    """What is served: the node."""

    metrics: Metrics

    def waiting_for(self) -> tuple[str, ...]:
        """Why the node is not ready; empty when it is."""

    def figures(self) -> Figures:
        """For /metrics."""

    def status(self) -> Status:
        """For /status."""


async def serve(listener: socket.socket, subject: Subject) -> None:
    """Answer whoever connects, until cancelled."""

    def live() -> Page:
        return Page(b"ok\n")

    def ready() -> Page:
        if reasons := subject.waiting_for():
            return Page("".join(f"{reason}\n" for reason in reasons).encode(), code=503)
        return live()

    def metrics() -> Page:
        content = subject.metrics.render(subject.figures())
        return Page(content, "text/plain; version=0.0.4; charset=utf-8")

    def status() -> Page:
        return Page(msgspec.json.encode(subject.status()), "application/json")

    pages = {"/healthz": live, "/livez": live, "/readyz": ready, "/metrics": metrics, "/status": status}
    await serve_pages(listener, pages)


async def serve_pages(listener: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
    """Each path has its page, made when somebody asks; until cancelled."""
    application = web.Application(client_max_size=1024)
    for path, page in pages.items():
        application.router.add_get(path, _handler(page), allow_head=False)
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_LOGGER,
        handle_signals=False,
        keepalive_timeout=_LONGEST_QUIET,
        max_line_size=_LARGEST_LINE,
        max_field_size=_LARGEST_LINE,
        shutdown_timeout=0.5,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _handler(page: Callable[[], Page]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.Response:
        body, kind, code = page()
        headers = {"Content-Type": kind, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(status=code, body=body, headers=headers)

    return answer
