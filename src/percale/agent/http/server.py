"""The agent's HTTP: /healthz, /livez, /readyz, /metrics, /status. Loopback unless told otherwise.

`context.py` and `proxier_health.py` import this module in a thread, when somebody asks.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from percale.agent.http.listener import Page
from percale.agent.http.web_server import Guests, runner
from percale.agent.metrics import Figures, Metrics
from percale.agent.status import Status


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
    running = await runner(pages.get, Guests(), patience=0.5)
    try:
        await web.SockSite(running, listener).start()
        await asyncio.Event().wait()
    finally:
        await running.cleanup()
