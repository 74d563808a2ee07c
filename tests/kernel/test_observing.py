"""The thread that listens to the kernel: a defect of ours must not make it deaf."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from percale.kernel import links
from percale.kernel.driver import KernelDriver
from percale.kernel.namespaces import NamespaceThread
from percale.kernel.protocol import KernelEvent, Lost, UnderlayChanged
from percale.kernel.reconciling import Reconciler

PATIENCE = 30.0


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Defect(Exception):
    """Of ours."""


def break_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next device that the kernel tells of finds a defect."""
    decode = links.decode

    def broken(body: bytes) -> Any:
        monkeypatch.setattr(links, "decode", decode)
        raise Defect

    monkeypatch.setattr(links, "decode", broken)


def test_it_tells_of_a_defect_and_listens_again(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[KernelEvent] = []

    def hear(events: Iterable[KernelEvent]) -> None:
        told.extend(events)

    driver = space.driver()
    driver.follow(hear)
    space.run("ip", "link", "add", "first0", "type", "bridge")
    until(lambda: told)
    told.clear()
    break_once(monkeypatch)
    space.run("ip", "link", "add", "second0", "type", "bridge")
    until(lambda: len(told) == 2)
    lost, changed = told
    assert isinstance(lost, Lost)
    assert isinstance(lost.error, Defect)
    assert changed == UnderlayChanged()
    told.clear()
    space.run("ip", "address", "add", "192.0.2.1/24", "dev", "second0")
    until(lambda: UnderlayChanged() in told)
    assert not [event for event in told if isinstance(event, Lost)]


async def test_the_reconciler_reports_it_and_reads_again(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    reconciler = Reconciler(KernelDriver(NamespaceThread(space.descriptor)))
    await reconciler.start()
    try:
        break_once(monkeypatch)
        space.run("ip", "link", "add", "eth0", "type", "bridge")
        async with asyncio.timeout(PATIENCE):
            while not reports or "eth0" not in {interface.name for interface in reconciler.underlay.interfaces}:
                await asyncio.sleep(0.01)
    finally:
        await reconciler.stop()
    (report,) = reports
    assert report["message"] == "listening to the kernel failed"
    assert isinstance(report["exception"], Defect)
