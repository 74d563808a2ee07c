"""The agent's HTTP: /healthz, /livez, /readyz, /metrics, /status. On loopback by default.

`context.py` and `proxier_health.py` import this module
in a thread, at the first connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from percale.agent.http.listener import Page, metrics_page
from percale.agent.http.web_server import ConnectionLimit, runner
from percale.agent.metrics import GaugeValues, Metrics
from percale.agent.status import Status


class Reporter(Protocol):
    """Implemented by `StatusReporter`."""

    metrics: Metrics

    def waiting_for(self) -> tuple[str, ...]:
        """Why the node is not ready; empty if it is."""

    def gauge_values(self) -> GaugeValues:
        """For /metrics."""

    def status(self) -> Status:
        """For /status."""


async def serve(listener: socket.socket, source: Reporter) -> None:
    """Serve until cancelled."""

    def live() -> Page:
        return Page(b"ok\n")

    def ready() -> Page:
        if reasons := source.waiting_for():
            return Page("".join(f"{reason}\n" for reason in reasons).encode(), code=503)
        return live()

    def metrics() -> Page:
        return metrics_page(source.metrics.render(source.gauge_values()))

    def status() -> Page:
        return Page(msgspec.json.encode(source.status()), "application/json")

    pages = {"/healthz": live, "/livez": live, "/readyz": ready, "/metrics": metrics, "/status": status}
    await serve_pages(listener, pages)


async def serve_pages(listener: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
    """Serve each path's page, made per request, until cancelled."""
    running = await runner(pages.get, ConnectionLimit(), shutdown_timeout=0.5)
    try:
        await web.SockSite(running, listener).start()
        await asyncio.Event().wait()
    finally:
        await running.cleanup()
