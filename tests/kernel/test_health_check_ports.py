"""A Service's health check port, over loopback."""

from __future__ import annotations

import asyncio
import io
import subprocess
import time
from collections.abc import Iterator

import pytest

from percale.agent.logging import LineLog
from percale.agent.problems import Problems
from percale.agent.service.health_check_ports import HealthCheck, HealthChecks
from percale.agent.service.proxier_health import ProxierHealth
from percale.agent.service.sync_latency import SyncLatency
from percale.model.meta import ObjectKey

PORT = 32100
PATIENCE = 30.0
"""Seconds."""


@pytest.fixture
def loopback() -> Iterator[None]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    yield
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)


async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", PORT)
        except OSError:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("loopback")
async def test_a_request_while_the_port_closes_sees_no_endpoints_or_fails() -> None:
    problems = Problems(LineLog(stream=io.StringIO()))
    told: list[int] = []
    health = ProxierHealth(
        SyncLatency(),
        problems,
        source="the table",
        applied=lambda: True,
        eligible=lambda: True,
        answered=lambda _, code: told.append(code),
    )
    checks = HealthChecks(health, problems)
    checks.sync({PORT: HealthCheck(ObjectKey("default", "web"), 2)})
    reader, writer = await connected()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"200 OK" in await reader.readline()
    while (await reader.readline()).strip():
        pass
    assert b'"localEndpoints":2' in await reader.read(1000)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    checks.sync({})
    answer = await reader.read(10_000)
    assert not answer or (b"503" in answer and b'"localEndpoints":0' in answer)
    assert set(told) <= {200, 503}
    writer.close()
    await checks.close()
