"""The agent's HTTP: /healthz, /livez, /readyz, /metrics, /status. On loopback by default; GET only, no request bodies.

Importing aiohttp takes longer than programming the node: `context.py` and `proxier_health.py` import this module
in a thread, at the first connection.
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
from percale.agent.metrics import GaugeValues, Metrics
from percale.agent.status import Status

_MAX_LINE = 4096
"""Bytes of a request's first line, or of one header."""
_KEEPALIVE = 30.0
"""Seconds an idle connection is kept."""


class _NoBadRequests(logging.Filter):
    """A client's malformed request is answered with 400, and not logged with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOGGER = logging.getLogger("percale.http")
_LOGGER.addFilter(_NoBadRequests())


class StatusSource(Protocol):
    """Implemented by `StatusReporter`."""

    metrics: Metrics

    def waiting_for(self) -> tuple[str, ...]:
        """Why the node is not ready; empty if it is."""

    def gauge_values(self) -> GaugeValues:
        """For /metrics."""

    def status(self) -> Status:
        """For /status."""


async def serve(listener: socket.socket, source: StatusSource) -> None:
    """Serve until cancelled."""

    def live() -> Page:
        return Page(b"ok\n")

    def ready() -> Page:
        if reasons := source.waiting_for():
            return Page("".join(f"{reason}\n" for reason in reasons).encode(), code=503)
        return live()

    def metrics() -> Page:
        content = source.metrics.render(source.gauge_values())
        return Page(content, "text/plain; version=0.0.4; charset=utf-8")

    def status() -> Page:
        return Page(msgspec.json.encode(source.status()), "application/json")

    pages = {"/healthz": live, "/livez": live, "/readyz": ready, "/metrics": metrics, "/status": status}
    await serve_pages(listener, pages)


async def serve_pages(listener: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
    """Serve each path's page, made per request, until cancelled."""
    application = web.Application(client_max_size=1024)
    for path, page in pages.items():
        application.router.add_get(path, _handler(page), allow_head=False)
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_LOGGER,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
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
