"""The agent's HTTP: /healthz, /livez, /readyz, /metrics, /status. Loopback unless told otherwise; GET only, no bodies.

Importing aiohttp takes longer than programming the node: `node.py` imports this module in a thread, when somebody asks.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

import msgspec
from aiohttp import web

from percale.agent.metrics import Figures, Metrics
from percale.agent.status import Status

_LARGEST_LINE = 4096
"""Bytes of a request's first line, or of one header."""
_LONGEST_QUIET = 30.0
"""Seconds an idle connection is kept."""


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
    runner = web.AppRunner(
        _application(subject),
        access_log=None,
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


def _application(subject: Subject) -> web.Application:
    async def live(_request: web.Request) -> web.Response:
        return _answer(b"ok\n")

    async def ready(_request: web.Request) -> web.Response:
        if reasons := subject.waiting_for():
            return _answer("".join(f"{reason}\n" for reason in reasons).encode(), code=503)
        return _answer(b"ok\n")

    async def metrics(_request: web.Request) -> web.Response:
        content = subject.metrics.render(subject.figures())
        return _answer(content, "text/plain; version=0.0.4; charset=utf-8")

    async def status(_request: web.Request) -> web.Response:
        return _answer(msgspec.json.encode(subject.status()), "application/json")

    application = web.Application(client_max_size=1024)
    pages = {"/healthz": live, "/livez": live, "/readyz": ready, "/metrics": metrics, "/status": status}
    for path, handler in pages.items():
        application.router.add_get(path, handler, allow_head=False)
    return application


def _answer(body: bytes, kind: str = "text/plain; charset=utf-8", *, code: int = 200) -> web.Response:
    return web.Response(status=code, body=body, headers={"Content-Type": kind, "Cache-Control": "no-store"})
