"""Health check node ports: a load balancer outside asks each node whether it has endpoints of a service. `proxier.py` calls.

    Services with healthCheckNodePort ─▶ show({port: Check}) ─▶ one small HTTP server for each port

Every path answers: 200 while this node has ready endpoints and its rules are in force, else 503. What is said is looked up
when somebody asks.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from percale.agent.http.listener import Page
from percale.agent.problems import Troubles
from percale.agent.service.proxier_health import ProxyHealth
from percale.errors import KernelError
from percale.model.meta import ObjectKey

SOURCE = "health check"
_WEB = ("aiohttp.web", "percale.agent.http.web_server")


class Check(NamedTuple):
    """What a port tells: of which service, and how many ready endpoints this node has."""

    service: ObjectKey
    endpoints: int


class HealthChecks:
    """All methods are called on the event loop."""

    def __init__(self, health: ProxyHealth, troubles: Troubles) -> None:
        self._health = health
        self._troubles = troubles
        self._checks: Mapping[int, Check] = {}
        self._servers: dict[int, asyncio.Task[None]] = {}
        self._guests: Any = None
        """Of all ports together."""

    def show(self, checks: Mapping[int, Check]) -> None:
        """From now on these ports are open, and no others."""
        self._checks = dict(checks)
        for port in self._servers.keys() - checks.keys():
            self._servers.pop(port).cancel()
            self._troubles.end(f"{SOURCE} {port}")
        for port in checks.keys() - self._servers.keys():
            self._servers[port] = asyncio.create_task(self._serve(port), name=f"{SOURCE} {port}")

    async def close(self) -> None:
        """All ports are closed when this returns."""
        servers = list(self._servers.values())
        self.show({})
        await asyncio.gather(*servers, return_exceptions=True)

    async def _serve(self, port: int) -> None:
        check = self._checks[port]
        web, server = [await asyncio.to_thread(importlib.import_module, each) for each in _WEB]
        self._guests = self._guests or server.Guests()

        def page() -> Page:
            nonlocal check
            check = self._checks.get(port, check._replace(endpoints=0))  # asked while it closes, it has none
            return self._answer(check)

        runner = await server.runner(lambda _: page, self._guests, patience=0.1, any_method=True)
        try:
            while True:
                try:
                    await web.TCPSite(runner, None, port, reuse_address=True).start()
                except OSError as error:
                    where = f"health check node port {port} of Service {check.service}"
                    taken = KernelError(error.strerror or str(error), errno=error.errno or 0, where=where)
                    self._troubles.begin(f"{SOURCE} {port}", taken)
                    await asyncio.sleep(1)
                else:
                    self._troubles.end(f"{SOURCE} {port}")
                    break
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _answer(self, check: Check) -> Page:
        (namespace, name), endpoints = check
        healthy = self._health.healthy
        said = {
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        }
        code = 200 if endpoints and healthy else 503
        self._health.answered("service", code)
        weight = {"X-Load-Balancing-Endpoint-Weight": str(endpoints)}
        return Page(msgspec.json.encode(said), "application/json", code, weight)
