"""Health check node ports: external load balancers ask each node whether it has endpoints of a Service. `proxier.py` calls.

    Services with healthCheckNodePort ─▶ sync({port: HealthCheck}) ─▶ one small HTTP server for each port

Every path answers: 200 while this node has ready endpoints and its rules are applied, else 503.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from percale.agent.http.listener import Page
from percale.agent.problems import Problems
from percale.agent.service.proxier_health import ProxierHealth
from percale.errors import KernelError
from percale.model.meta import ObjectKey

SOURCE = "health check"
_WEB = ("aiohttp.web", "percale.agent.http.web_server")


class HealthCheck(NamedTuple):
    """What a port reports: the Service, and its number of ready endpoints on this node."""

    service: ObjectKey
    endpoints: int


class HealthChecks:
    """All methods are called on the event loop."""

    def __init__(self, health: ProxierHealth, problems: Problems) -> None:
        self._health = health
        self._problems = problems
        self._checks: Mapping[int, HealthCheck] = {}
        self._servers: dict[int, asyncio.Task[None]] = {}
        self._connection_limit: Any = None
        """Of all ports together."""

    def sync(self, checks: Mapping[int, HealthCheck]) -> None:
        """Open these ports and close all others."""
        self._checks = dict(checks)
        for port in self._servers.keys() - checks.keys():
            self._servers.pop(port).cancel()
            self._problems.clear(f"{SOURCE} {port}")
        for port in checks.keys() - self._servers.keys():
            self._servers[port] = asyncio.create_task(self._serve(port), name=f"{SOURCE} {port}")

    async def close(self) -> None:
        servers = list(self._servers.values())
        self.sync({})
        await asyncio.gather(*servers, return_exceptions=True)

    async def _serve(self, port: int) -> None:
        check = self._checks[port]
        web, server = [await asyncio.to_thread(importlib.import_module, each) for each in _WEB]
        self._connection_limit = self._connection_limit or server.ConnectionLimit()

        def page() -> Page:
            nonlocal check
            check = self._checks.get(port, check._replace(endpoints=0))  # while it closes it has none
            return self._answer(check)

        runner = await server.runner(lambda _: page, self._connection_limit, shutdown_timeout=0.1, any_method=True)
        try:
            while True:
                try:
                    await web.TCPSite(runner, None, port, reuse_address=True).start()
                except OSError as error:
                    where = f"health check node port {port} of Service {check.service}"
                    taken = KernelError.from_os(error, where=where)
                    self._problems.raise_(f"{SOURCE} {port}", taken)
                    await asyncio.sleep(1)
                else:
                    self._problems.clear(f"{SOURCE} {port}")
                    break
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _answer(self, check: HealthCheck) -> Page:
        (namespace, name), endpoints = check
        healthy = self._health.healthy
        content = {
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        }
        code = 200 if endpoints and healthy else 503
        self._health.answered("service", code)
        weight = {"X-Load-Balancing-Endpoint-Weight": str(endpoints)}
        return Page(msgspec.json.encode(content), "application/json", code, weight)
